"""What a loader's process does about signals."""

import os
import signal
import threading


def only_the_trainer_ends_it(worker: int) -> None:
    """Ignore a SIGTERM that does not come from the trainer.

    Cluster managers send it to every process of a job. The trainer then saves a checkpoint after its step, and for that it
    needs its batches. (A loader whose trainer is gone ends by itself within seconds; torch sees to that.)

    Args:
        worker: number of the process; torch gives it.
    """
    if not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_wait, args=(os.getppid(),), daemon=True, name="sigterm").start()


def _wait(trainer: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != trainer:
        pass
    os._exit(0)
