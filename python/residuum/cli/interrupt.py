"""Ctrl-C during a query."""

from __future__ import annotations

import signal
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import duckdb


@contextmanager
def stopped_by_ctrl_c(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Let Ctrl-C end the connection's query at once.

    DuckDB looks for signals in between its tasks, of which one can be the whole query. So a thread
    waits for them, which Python writes to a socket in the moment they come, and tells DuckDB.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    heard, told = socket.socketpair()
    told.setblocking(False)  # noqa: FBT003  the library's name for it

    def watch() -> None:
        while signals := heard.recv(64):
            if signal.SIGINT in signals:
                connection.interrupt()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        told.close()  # which ends the thread
        watcher.join()
        heard.close()
