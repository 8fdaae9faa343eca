"""How a table's rows are told apart by day, as its source declares it: Iceberg's `day` of a column, or not at all."""

from pyiceberg.table import Table
from pyiceberg.transforms import DayTransform

from perennial.lakehouse.attempts import until_it_lands
from perennial.lakehouse.lake import Lake


def partition_by_day(lake: Lake, table: Table, column: str | None) -> Table:
    """The table, partitioned by the day of a column from now on; None: not partitioned.

    Files that were written before stay as they are and stay readable; `maintain` brings the small ones among them along.
    """

    def attempt(number: int) -> Table:
        found = table if number == 0 else lake.catalog().load_table(table.name())
        schema, fields = found.schema(), found.spec().fields
        wanted: list[tuple[int, object]] = [(schema.find_field(column).field_id, DayTransform())] if column else []
        if [(field.source_id, field.transform) for field in fields] != wanted:
            with found.update_spec() as update:
                for field in fields:
                    update.remove_field(field.name)
                if column:
                    update.add_field(column, DayTransform(), f"{column}_day")
        return found

    return until_it_lands(attempt, f"{'.'.join(table.name())} is partitioned as before")
