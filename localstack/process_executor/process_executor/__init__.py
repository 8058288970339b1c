"""Runs the functions of LocalStack's Lambda as local processes, without Docker.

    LocalStack ── executor ─┬─ sandbox ── process: the function's `bootstrap`, its memory, temp folder and log
                            │     └────── runtime_api: what the function talks to, on 127.0.0.1
                            └─ report: the lines that AWS writes around an invocation

One executor is one execution environment: it handles one invocation at a time and is kept warm between them. `plugin` is
what LocalStack finds, `host` starts LocalStack with it. Linux only: memory is read from /proc.

Not done here: concurrency limits, keeping alive, versions and aliases (LocalStack's own), functions from container images,
layers, extensions, response streaming.
"""
