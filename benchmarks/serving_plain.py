"""What one would write in ten minutes: images of a Parquet file over HTTP, read by pandas at each request.

    python benchmarks/serving_plain.py FILE PORT

FILE has columns `key`, `image` (a PNG file), `label`. Only benchmarks/serving.py uses this.
"""

from __future__ import annotations

import sys

import pandas as pd
import uvicorn
from fastapi import FastAPI, HTTPException, Response

app = FastAPI()
FILE = sys.argv[1]


@app.get("/images/{key:path}")
def image(key: str) -> Response:
    """The image of a key."""
    rows = pd.read_parquet(FILE, columns=["image"], filters=[("key", "==", key)])
    if not len(rows):
        raise HTTPException(404)
    return Response(rows["image"].iloc[0], media_type="image/png")


@app.get("/rows")
def rows(offset: int = 0, length: int = 100) -> list[dict[str, str | None]]:
    """A page of rows, as the viewers of data sets show."""
    found = pd.read_parquet(FILE, columns=["key", "label"]).iloc[offset : offset + length]
    return [{"key": row.key, "label": row.label} for row in found.itertuples()]


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error", access_log=False)
