"""HTTP: one module a resource. The only place, with `app.py`, that knows Litestar."""
