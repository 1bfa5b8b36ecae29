"""graphflow: graphs of async modules over shared state in Redis."""
