"""The rules of `benchmarks.validation` in Great Expectations, in the environment of the peers: rows as Parquet, a figure.

Prints JSON: CPU and wall seconds of the validation alone, and how many rows each rule found.
"""

import json
import sys
import time

import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd

RULES = {
    "sale_id:greater_than(0)": gxe.ExpectColumnValuesToBeBetween(column="sale_id", min_value=0, strict_min=True),
    r"product:str_matches('^[A-Z]{3}-\d{4}$')": gxe.ExpectColumnValuesToMatchRegex(
        column="product", regex=r"^[A-Z]{3}-\d{4}$"
    ),
    "country": gxe.ExpectColumnValuesToBeInSet(
        column="country", value_set=["AT", "BE", "CH", "DE", "DK", "ES", "FR", "IT", "NL", "PL"]
    ),
    "pieces:greater_than_or_equal_to(1)": gxe.ExpectColumnValuesToBeBetween(column="pieces", min_value=1),
    "pieces:less_than_or_equal_to(500)": gxe.ExpectColumnValuesToBeBetween(column="pieces", max_value=500),
    "cents:greater_than_or_equal_to(0)": gxe.ExpectColumnValuesToBeBetween(column="cents", min_value=0),
    "cents:less_than(10000000)": gxe.ExpectColumnValuesToBeBetween(
        column="cents", max_value=10_000_000, strict_max=True
    ),
    "discount:in_range(0, 1)": gxe.ExpectColumnValuesToBeBetween(column="discount", min_value=0, max_value=1),
    "email:str_contains('@')": gxe.ExpectColumnValuesToMatchRegex(column="email", regex="@"),
    "email:str_length(None, 254)": gxe.ExpectColumnValueLengthsToBeBetween(column="email", max_value=254),
    "currency:equal_to(EUR)": gxe.ExpectColumnValuesToBeInSet(column="currency", value_set=["EUR"]),
    "channel:notin(['test'])": gxe.ExpectColumnValuesToNotBeInSet(column="channel", value_set=["test"]),
}
FILLED = ("sale_id", "product", "country", "pieces", "cents", "email", "currency", "channel")


def main(path: str) -> None:
    """Validate the rows in a file twice: the first time warms up."""
    rows = pd.read_parquet(path)
    expectations = RULES | {f"{name}:not_nullable": gxe.ExpectColumnValuesToNotBeNull(column=name) for name in FILLED}
    for name, expectation in expectations.items():
        expectation.meta = {"rule": name}  # results come in an order of their own
    context = gx.get_context(mode="ephemeral")
    asset = context.data_sources.add_pandas("sales").add_dataframe_asset("sales")
    batches = asset.add_batch_definition_whole_dataframe("sales")
    suite = context.suites.add(gx.ExpectationSuite(name="sales", expectations=list(expectations.values())))
    for frame in (rows.head(1000), rows):
        batch = batches.get_batch({"dataframe": frame})
        spent, started = time.process_time(), time.perf_counter()
        done = batch.validate(suite, result_format="BASIC")
        spent, started = time.process_time() - spent, time.perf_counter() - started
    found = {result.expectation_config.meta["rule"]: result.result["unexpected_count"] for result in done.results}
    told = {name: int(rows) for name, rows in found.items() if rows}
    print(json.dumps({"cpu": spent, "wall": started, "failed": told}))


if __name__ == "__main__":
    main(sys.argv[1])
