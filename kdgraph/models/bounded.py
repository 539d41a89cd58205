"""Files of tensors that take more to read than they have bytes are not read."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

# bytes that say what a file holds: of some 30,000 tensors, and as many of a checkpoint, which has
# those of the optimiser too
_HEADER, _PICKLE = 4 << 20, 16 << 20


def bounded(path: Path) -> Path:
    """The path of a ``.safetensors`` or ``torch.save`` file whose parts are no larger than it is.

    Raises:
        OSError: it is not there, or no regular file, such as a pipe, which may never end.
        ValueError: it is compressed, or says that its parts are larger than they can be.
    """
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError("it is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is no regular file")
    if path.suffix == ".safetensors":
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
        if size > min(_HEADER, status.st_size):
            raise ValueError(f"its header claims to have {size:,} bytes")
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            parts = file.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise ValueError("it is compressed, as torch.save never does")
        if (claimed := sum(part.file_size for part in parts)) > status.st_size:
            raise ValueError(f"its parts claim to have {claimed:,} bytes")
        if any(p.filename.endswith("data.pkl") and p.file_size > _PICKLE for p in parts):
            raise ValueError(f"the list of its tensors has more than {_PICKLE:,} bytes")
    return path
