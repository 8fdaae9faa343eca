"""Known persons are brought in every way a row can go; then everything that was written anywhere is searched for them."""

import io
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import fastavro
import polars as pl
import pyarrow.parquet as pq
import pytest
import ray
from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL

from flows.ingest import ingest
from flows.repair import repair
from flows.settings import Settings
from perennial.lakehouse.lake import Lake
from perennial.lakehouse.personal import open_pseudonyms
from perennial.lakehouse.positions import plan_batch
from perennial.lakehouse.prediction_log import ship_segment
from perennial.lakehouse.secrets import SecretMissing, SecretRef
from perennial.lakehouse.stages import make_champion
from perennial.lakehouse.tables import read_snapshot
from perennial.rules.features import feature_code_hash
from perennial.rules.schema import SchemaRefused
from perennial.spec import Pipeline, load_pipeline
from ray_jobs.features.build import BuildRequest, build
from ray_jobs.serve.answers import Answers
from ray_jobs.serve.keeper import Keeper
from ray_jobs.serve.rows import read_rows
from tasks.lakehouse import PartsLeftOut
from tasks.refusal import BatchRefused
from tests.conftest import S3
from tests.ray_jobs.serve.world import register_model
from tests.shop import NOON, put

FILE = r'''
import pandera.polars as pa
import polars as pl

from perennial.spec import At, Files, Label, Lookup, Pipeline, TabularModel, UtcMicroseconds


class Visit(pa.DataFrameModel):
    """Grain: one visit."""

    visit: int = pa.Field(gt=0)
    email: str = pa.Field(str_matches=r"^[^@ ]+@[^@ ]+$")
    visited_at: UtcMicroseconds
    minutes: int = pa.Field(ge=0)
    paid: bool = pa.Field(nullable=True)


class Person(pa.DataFrameModel):
    """Grain: one person."""

    address: str
    phone: str = pa.Field(nullable=True)
    city: str


def features(visits: pl.LazyFrame) -> pl.LazyFrame:
    return visits.select("email", "minutes", city="people_city")


pipeline = Pipeline(
    name="clinic",
    sources=[
        Files("visits", "visits/*.csv", contract=Visit, key=["visit"], event_time="visited_at",
              known=At("visited_at"), error_budget_share=0.7, personal=["email"]),
        Files("people", "people/*.csv", contract=Person, key=["address"], personal=["address", "phone"]),
    ],
    entity="visits",
    joins=[Lookup("people", on={"email": "address"})],
    features=features,
    label=Label("paid", pl.col("paid")),
    model=TabularModel("binary", hidden=(16,), epochs=1),
)
'''
ANN, BOB, EVE, DAN, SUE, TOM = (
    f"{name}.q7x{name}@secret.example" for name in ("ann", "bob", "eve", "dan", "sue", "tom")
)
PHONE, NO_MAIL, GIFT = "+49-555-q7x-1234", "no mail q7xnomail", "for q7xgift"
SECRETS = ["q7x", "secret.example", "+49-555"]
HEADER = "visit,email,visited_at,minutes,paid\n"
GOOD = f"1,{ANN},2024-05-01T13:00:00Z,30,true\n2,{BOB},2024-05-01T14:00:00Z,20,\n"
BAD = f"3,{EVE},2024-05-01T10:00:00Z,-5,\n4,{NO_MAIL},2024-05-01T11:00:00Z,5,\n5,{DAN}\n"
DAY = NOON + timedelta(days=1)


@pytest.fixture
def clinic(settings: Settings, lake: Lake, pipelines: Path) -> Pipeline:
    """Two sources with personal columns, brought in: good rows, bad rows, a line that is no row."""
    (pipelines / "clinic.py").write_text(FILE)
    put(lake, "visits/1.csv", HEADER + GOOD + BAD)
    put(lake, "people/1.csv", f"address,phone,city\n{ANN},{PHONE},Ulm\n{BOB},,Kiel\n")
    assert ingest("clinic", as_of=NOON, settings=settings) == {"visits": 2, "people": 2}
    return load_pipeline("clinic", pipelines)


def rows(lake: Lake, table: str) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(read_snapshot(lake, lake.table("clinic", table))))


def refuse_some(settings: Settings, lake: Lake) -> None:
    """Batches that are refused: for their rows, for their columns, for a first line that is no header."""
    put(lake, "visits/2.csv", HEADER + f"-1,{SUE},2024-05-01T10:00:00Z,-5,\n")
    with pytest.raises(BatchRefused):
        ingest("clinic", "visits", NOON, settings=settings)
    put(lake, "people/2.csv", f"{TOM},{PHONE},Ulm\n{SUE},{PHONE},Bonn\n")
    with pytest.raises(SchemaRefused, match="3 columns and none of its contract"):
        ingest("clinic", "people", NOON, settings=settings)
    put(lake, "people/2.csv", f"{TOM},{TOM},Ulm\n{SUE},{PHONE},Bonn\n")
    with pytest.raises(PartsLeftOut, match="what is wrong is not shown, because people has personal columns"):
        ingest("clinic", "people", NOON, settings=settings)
    put(lake, "people/2.csv", f"address,gift,city,phone\n{SUE},{GIFT},Bonn,\n,{GIFT},Bonn,\n")
    with pytest.raises(BatchRefused):
        ingest("clinic", "people", NOON, settings=settings)


def answer(lake: Lake, pipeline: Pipeline) -> pl.DataFrame:
    """Ask a replica for Ann's visit by her plain address; return the features, with the answer shipped to the log."""
    version = register_model(lake, pipeline, 1)
    make_champion(lake, "clinic", version, expected_generation=0, as_of=NOON, reason="a test", decision_id="d")
    answers = Answers(lake, pipeline)
    keeper = Keeper(lake, pipeline, feature_code_hash(pipeline), answers.try_out)
    body = {"rows": [{"visit": 1, "email": ANN, "visited_at": "2024-05-01T13:00:00Z", "minutes": 30}]}
    rows = answers.read([read_rows(json.dumps(body).encode(), 10, answers.schema)])
    computed = answers.compute(rows, keeper.current, NOON)
    scores = keeper.current.scorer.score(computed)
    ship_segment(lake, "clinic", "segment", answers.to_log(computed, scores, keeper.current, "asked", NOON, 1.0))
    assert "psn_" not in json.dumps(answers.example)
    return computed


def everything_written(lake: Lake, s3: S3) -> Iterator[tuple[str, str]]:
    """Every object but what arrived, the catalog, Prefect's database and Ray's logs: name and content, decoded."""
    root = s3.folder / lake.bucket / lake.environment
    files = [path for path in root.rglob("*") if path.is_file() and path.relative_to(root).parts[0] != "landing"]
    for path in files:
        content = path.read_bytes()
        yield str(path), content.decode("latin-1")
        if path.suffix == ".parquet":
            yield str(path), str(pq.read_table(io.BytesIO(content)).to_pylist())
        if path.suffix == ".avro":  # bounds of columns stand in manifests
            yield str(path), str(list(fastavro.reader(io.BytesIO(content))))
    databases = [lake.catalog_uri, str(PREFECT_SERVER_DATABASE_CONNECTION_URL.value())]
    for database in (Path(address.split(":///")[1]) for address in databases):
        for path in database.parent.glob(f"{database.name}*"):
            yield str(path), path.read_bytes().decode("latin-1")
    node = ray._private.worker._global_node
    assert node is not None
    for path in Path(node.get_session_dir_path(), "logs").rglob("*"):
        if path.is_file():
            yield str(path), path.read_text(errors="replace")


def test_no_plain_value_is_written_anywhere(
    settings: Settings, lake: Lake, clinic: Pipeline, pipelines: Path, s3: S3, capfd: pytest.CaptureFixture[str]
) -> None:
    refuse_some(settings, lake)
    build(BuildRequest(lake=lake, pipeline="clinic", as_of=DAY, pipelines=pipelines))
    answer(lake, clinic)
    written = list(everything_written(lake, s3))
    found = {name for name, text in written for secret in SECRETS if secret in text}
    assert not found
    said = capfd.readouterr()
    assert not any(secret in said.out + said.err for secret in SECRETS)
    ann = open_pseudonyms(lake, "clinic").of(pl.Series([ANN]))[0]
    kinds = {"raw_visits", "raw_people", "features", "prediction_log", "quarantine"}
    texts = [(name, text) for name, text in written if "psn_" in text]
    assert {kind for kind in kinds if any(kind in name for name, _ in texts)} == kinds, "the search finds what is there"
    assert any(name.endswith(".avro") and ann[:12] in text for name, text in texts)
    assert any("prefect" in name and "clinic/visits" in text for name, text in written), "the run's log was searched"


def test_keys_joins_and_quarantine_work_on_pseudonyms(lake: Lake, clinic: Pipeline, pipelines: Path) -> None:
    pseudonyms = open_pseudonyms(lake, "clinic")
    ann, eve = pseudonyms.of(pl.Series([ANN, EVE]))
    assert ann in rows(lake, "raw_visits")["email"].to_list()
    assert ann in rows(lake, "raw_people")["address"].to_list()
    broken = {row["position"]: row for row in rows(lake, "quarantine").to_dicts()}
    assert broken["visits/1.csv#3"]["failed_checks"] == ["minutes:greater_than_or_equal_to(0)"]
    assert [check.split("(")[0] for check in broken["visits/1.csv#4"]["failed_checks"]] == ["email:str_matches"]
    kept = pl.DataFrame([json.loads(broken["visits/1.csv#3"]["raw_row"])])
    assert kept["email"][0] == eve
    assert pseudonyms.reveal(kept)["email"][0] == EVE
    line = pl.DataFrame([json.loads(broken["visits/1.csv#unreadable 1"]["raw_row"])])
    assert pseudonyms.reveal(line)["line"][0].strip() == f"5,{DAN}"
    build(BuildRequest(lake=lake, pipeline="clinic", as_of=DAY, pipelines=pipelines))
    assert rows(lake, "features").sort("visit")["city"].to_list() == ["Ulm", "Kiel"]


def test_features_of_a_plain_request_equal_those_of_training(lake: Lake, clinic: Pipeline, pipelines: Path) -> None:
    build(BuildRequest(lake=lake, pipeline="clinic", as_of=DAY, pipelines=pipelines))
    trained = rows(lake, "features").filter(visit=1)
    assert (
        answer(lake, clinic).select("email", "minutes", "city").rows()
        == trained.select("email", "minutes", "city").rows()
    )


def test_without_a_key_nothing_is_read(lake: Lake, pipelines: Path) -> None:
    (pipelines / "clinic.py").write_text(FILE)
    pipeline = load_pipeline("clinic", pipelines)
    keyless = lake.model_copy(update={"personal_key": SecretRef(name="no_such_key")})
    with pytest.raises(SecretMissing, match=r"'no_such_key' is missing.*PERENNIAL_SECRET_NO_SUCH_KEY"):
        plan_batch(keyless, pipeline, pipeline.source("visits"), NOON)


def test_neither_the_key_nor_the_marking_changes_under_a_table(lake: Lake, pipelines: Path, s3: S3) -> None:
    (pipelines / "clinic.py").write_text(FILE)
    pipeline = load_pipeline("clinic", pipelines)
    plan_batch(lake, pipeline, pipeline.source("visits"), NOON)
    (s3.secrets_dir / "another_key").write_text("another key that is long enough to be one")
    rotated = lake.model_copy(update={"personal_key": SecretRef(name="another_key")})
    with pytest.raises(
        SchemaRefused, match=r"(?s)email +pseudonym \(key \w{8}\) +pseudonym \(key \w{8}\).*put back the key"
    ):
        plan_batch(rotated, pipeline, pipeline.source("visits"), NOON)
    (pipelines / "clinic.py").write_text(FILE.replace(', personal=["email"]', "").replace('["address", "phone"]', "[]"))
    plain = load_pipeline("clinic", pipelines)
    with pytest.raises(
        SchemaRefused, match=r"(?s)email +pseudonym \(key \w{8}\) +string +other type.*cannot change in place"
    ):
        plan_batch(lake, plain, plain.source("visits"), NOON)


def test_a_quarantined_row_is_judged_again_as_it_arrived(
    settings: Settings, lake: Lake, clinic: Pipeline, pipelines: Path
) -> None:
    (pipelines / "clinic.py").write_text(
        FILE.replace("minutes: int = pa.Field(ge=0)", "minutes: int = pa.Field(ge=-9)")
    )
    assert repair("clinic", "visits", settings=settings) == {"visits": 1}
    (eve,) = open_pseudonyms(lake, "clinic").of(pl.Series([EVE]))
    assert rows(lake, "raw_visits").filter(visit=3)["email"].to_list() == [eve]
