"""An archive over HTTP: what `tsae serve` does. Needs the extra `serve`; `docs/SERVING.md` is its manual.

```
server.py   sockets, signals, uvicorn
app.py      routes (FastAPI) -> schemas.py    gate.py  what every request passes: token, limits, HEAD, metrics.py
sheets.py   originals.py  downloads.py   /sheet, /originals, /batch
service.py  images, pages of them, figures; and what routes share: the state that is served, cache and decoder
states.py   an opened state, and the follower of commits
columns.py  -> pages.py  summary.py   what is known of all records without decoding one
pictures.py -> groups.py              rows to bytes: read, decoded, encoded
web.py                                the page at `/`, and the files that it reads
batching.py cache.py streams.py http.py problems.py options.py
```

Only `server.py`, `app.py` and `schemas.py` know the framework.
"""
