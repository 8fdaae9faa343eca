"""How many manifests a table has: appends merge them by size class, so that none is written again and again."""

from collections import defaultdict

from pyiceberg.manifest import ManifestFile
from pyiceberg.table.update.snapshot import _FastAppendFiles, _ManifestMergeManager

FANOUT = 10


class TieredAppend(_FastAppendFiles):
    """An append that merges ten manifests of one class, once there are as many, into one of the next.

    The classes: less than 10 files, less than 100, and so on. pyiceberg's own merge fills manifests up to a size and writes all that is
    in the last one again each time: the 250th commit cost twice the 10th.
    """

    def _process_manifests(self, manifests: list[ManifestFile]) -> list[ManifestFile]:
        classes: dict[tuple[int, int, int], list[ManifestFile]] = defaultdict(list)
        for manifest in manifests:
            files, tier = (manifest.added_files_count or 0) + (manifest.existing_files_count or 0), 0
            while files >= FANOUT ** (tier + 1):
                tier += 1
            classes[manifest.content, manifest.partition_spec_id, tier].append(manifest)
        merge = _ManifestMergeManager(0, 0, True, self)._create_manifest
        kept: list[ManifestFile] = []
        for (_, spec_id, _), found in classes.items():
            kept += [merge(spec_id, found)] if len(found) >= FANOUT else found
        return kept
