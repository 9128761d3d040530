from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from services.gpu_worker.reset import ENGINE_LOST

HUNG = """
import threading
from services.gpu_worker.reset import ENGINE_LOST, end_process
threading.Thread(target=threading.Event().wait).start()  # would keep a process from ending for ever
end_process(ENGINE_LOST)
"""


def test_a_process_with_a_thread_that_never_ends_exits_with_a_code_of_its_own() -> None:
    root = Path(__file__).parents[3]
    assert (
        subprocess.run([sys.executable, "-c", HUNG], cwd=root, timeout=60, check=False).returncode == ENGINE_LOST == 3
    )
