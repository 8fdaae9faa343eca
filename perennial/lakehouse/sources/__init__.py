"""What has arrived, one module per kind of source, all with the same operations.

- `new_parts(lake, source, previous)`: what is new since a position, as parts that can be read on their own; of files also those
  that were renamed and bring nothing;
- `describe(parts)`: how much that is, as people read it;
- `source_id`: which source this is, so that another one under the same name is not taken for it;
- `changed_parts(lake, source, parts)`: which are not any more what was planned, of kinds whose parts can change;
- `position_after`: the position once a batch is committed, a string that only this module reads.

`perennial.lakehouse.positions` chooses the module; `ray_jobs.ingest.read` reads the parts.
"""
