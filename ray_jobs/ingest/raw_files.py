"""A file of a batch, or a range of one, ready to be read."""

import io
from typing import Any

from perennial.lakehouse.sources.files import FilePart, Place


class FileRange(FilePart, frozen=True):
    """The records of a file that begin between two bytes; `path#n` counts from the first of them."""

    start: int
    end: int

    @property
    def weight(self) -> int:
        """How much work it is to read, in bytes."""
        return self.end - self.start


class Raw(io.RawIOBase):
    """The bytes of a file between two places. `failed`: the file system's error, to tell it from a broken content."""

    def __init__(self, file: Any, start: int, end: int) -> None:
        self.file, self.at, self.end = file, start, end
        self.failed: OSError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + (0, self.at, self.end)[whence]
        return self.at

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, in one request."""
        left = self.end - self.at
        try:
            read: bytes = self.file.read_at(left if size < 0 else min(size, left), self.at) if left > 0 else b""
        except OSError as error:
            self.failed = error
            raise
        self.at += len(read)
        return read

    def readinto(self, buffer: Any) -> int:
        """The next bytes, into a buffer."""
        read = self.read(len(buffer))
        buffer[: len(read)] = read
        return len(read)


def open_part(place: Place, part: FilePart) -> Raw:
    """A file, ready to be read."""
    start, end = (part.start, part.end) if isinstance(part, FileRange) else (0, part.bytes)
    return Raw(place.read.open_input_file(place.location(part.path)), start, end)
