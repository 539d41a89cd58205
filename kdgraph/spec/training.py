"""Keys of the ``data`` and ``train`` blocks, used by the default run only."""

from __future__ import annotations

from typing import Any

DataSpec = dict[str, Any]
TrainSpec = dict[str, Any]
