"""Multipart uploads that were begun and never ended: S3 keeps, and bills, their parts until they are aborted."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from perennial.lakehouse.lake import Lake
from perennial.lakehouse.leftovers import Leftover
from perennial.rules.upkeep import safe_age

UPLOAD = "abandoned upload"


def abandoned_uploads(lake: Lake, now: datetime) -> list[Leftover]:
    """Uploads below the lake's environment that were begun before the safe age; `path` carries the upload's id."""
    start, before = lake.uri("").removeprefix(f"s3://{lake.bucket}/"), now - safe_age(timedelta(0))
    try:
        answer = lake.files().call_s3("list_multipart_uploads", Bucket=lake.bucket, Prefix=start)
    except FileNotFoundError:
        return []  # rclone says so of a bucket that never had any
    return [
        Leftover(
            kind=UPLOAD,
            path=f"s3://{lake.bucket}/{upload['Key']}?uploadId={upload['UploadId']}",
            bytes=0,
            modified_at=upload["Initiated"],
        )
        for upload in answer.get("Uploads", [])
        if upload["Initiated"] < before
    ]


def abort_uploads(lake: Lake, uploads: Sequence[Leftover]) -> int:
    """Abort them; one that ended meanwhile is no error. Returns how many were asked for."""
    for upload in uploads:
        key, _, upload_id = upload.path.removeprefix(f"s3://{lake.bucket}/").rpartition("?uploadId=")
        try:
            lake.files().call_s3("abort_multipart_upload", Bucket=lake.bucket, Key=key, UploadId=upload_id)
        except FileNotFoundError:
            pass  # it ended, or another run aborted it
    return len(uploads)
