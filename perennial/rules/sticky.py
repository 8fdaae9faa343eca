"""Which requests a challenger answers: by a hash of their key, so that a client meets one version and not two in turn."""

import hashlib


def takes_part(key: str, experiment: str, share: float) -> bool:
    """Whether the key belongs to the share, in [0, 1], of all keys that takes part in the experiment.

    A key that takes part in a share takes part in every larger one. Another experiment draws other keys.
    """
    digest = hashlib.blake2b(f"{experiment}\x1f{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64
