"""Who keeps the rows of a training run besides metrics.jsonl: TensorBoard, W&B and MLflow, each as a `Logger`.

W&B and MLflow may not be installed, and take seconds to import: that is done when they are asked for.
"""

import json
import math
import os
import re
import sys
import time
import uuid
from collections.abc import Mapping
from typing import Any

from etils import epath

from simclr_jax.runtime import disk, preemption, run_folder
from simclr_jax.runtime.console import say

_PROJECT = "simclr_jax"  # W&B's project and MLflow's experiment, where nothing says otherwise
_PATIENCE = 300.0  # seconds that W&B may take for what is not uploaded at the end; it stays in RUN/wandb
_MOST_PARAMS = 100  # that MLflow takes at once
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LONGEST_REASON = 300  # characters of an error


class TensorBoard:
    """A file of events, written when it is asked for: a thread, as tensorboardX has, would block on a full disk.

    TensorBoard forgets the steps from the start on that older files of the folder hold. What is not finite is a gap.

    Args:
      folder: RUN/tensorboard; made where it is not there.
      first_step: steps that were taken before.

    Raises:
      ValueError: of `write` and `close`, the file cannot be written.
    """

    def __init__(self, folder: epath.Path, first_step: int):
        folder.mkdir(exist_ok=True)
        from tensorboardX import event_file_writer, summary  # here, because it imports PyTorch where that is installed
        from tensorboardX.proto import event_pb2

        self._folder = folder
        self._kinds, self._scalar = event_pb2, summary.scalar
        self._file = event_file_writer.EventsWriter(str(folder / "events"), f".{first_step}")
        start = self._kinds.SessionLog(status=self._kinds.SessionLog.START)
        self._add(first_step + 1, session_log=start)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the values of a step, and has them on disk."""
        with run_folder.told_where(self._folder):
            for name, value in _finite(values).items():
                self._add(step, summary=self._scalar(name, value))
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        with run_folder.told_where(self._folder):
            self._file.close()

    def _add(self, step: int, **content: Any) -> None:
        self._file.write_event(self._kinds.Event(wall_time=time.time(), step=step, **content))


class WandB:
    """A run of W&B, with the config, in the project of WANDB_PROJECT or "simclr_jax".

    Its id is kept in RUN/wandb.json: a training that goes on goes on in the same W&B run, one that begins anew is a new
    run. Rows of before the stop that are trained again are there already, and left out. Offline, each start has a
    folder of its own with all of its rows, under the one id, and `wandb sync RUN/wandb/offline-run-*` joins them. W&B
    sends a row with the next one, so that a process that is killed may lack the last. Files lie in RUN/wandb, unless
    WANDB_DIR says otherwise; WANDB_MODE, WANDB_ENTITY, WANDB_RUN_ID and WANDB_NAME count too.

    Args:
      workdir: RUN.
      first_step: steps that were taken before.
      config: {"section.key": value}.

    Raises:
      Exception: of W&B's own kinds, where it cannot start.
    """

    def __init__(self, workdir: str, first_step: int, config: Mapping[str, Any]):
        import wandb

        folder = run_folder.folder(workdir)
        settings = wandb.setup().settings
        kept = folder / "wandb.json"
        run_id = settings.run_id or _kept_id(kept, first_step) or uuid.uuid4().hex[:8]
        disk.replace_text(kept, json.dumps({"id": run_id}) + "\n")
        self._run = wandb.init(
            id=run_id,
            resume="allow",
            project=settings.project or _PROJECT,
            name=settings.run_name or (None if first_step else _title(folder)),  # somebody may have renamed it
            dir=os.environ.get("WANDB_DIR") or str(folder),
            config=dict(config),
            settings=wandb.Settings(
                silent=True,  # what is to be said is said below
                console="off",  # it would put its own streams in the place of those of the process
                reinit="create_new",  # a notebook's own run is not ours
                finish_timeout=_PATIENCE,
                finish_timeout_raises=True,
            ),
        )
        self._before = sys.exception()
        offline = self._run.settings.mode in ("offline", "dryrun")
        where = f"offline, in {self._run.settings.sync_dir}" if offline else self._run.url or self._run.settings.mode
        say(f"W&B: run {run_id}, {where}")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs a row; W&B joins those of one step."""
        if step >= self._run.starting_step:  # what comes after the rows that W        if step >= self._run.step:B has
            self._run.log(_finite(values), step=step)

    def close(self) -> None:
        """Ends it: as failed while an error passes, as preempted where the training was told to stop."""
        error = _passing(self._before)
        if isinstance(error, preemption.Stopped):
            self._run.mark_preempting()
            self._run.finish(exit_code=preemption.STOPPED)
        else:
            self._run.finish(exit_code=1 if error else 0)


def check_wandb_login() -> None:
    """Refuses W&B that would ask for a login: a run of the night would wait for it till the morning."""
    mend = "`wandb login` asks for one, and with WANDB_MODE=offline the run is kept in RUN/wandb, for `wandb sync`"
    try:
        import wandb

        offline = wandb.setup().settings.mode in ("offline", "dryrun", "disabled")
        known = offline or wandb.login(prompt=False, verify=False)
    except Exception as error:
        raise ValueError(f"config.log.to: W&B cannot start ({in_words(error)}); {mend}") from error
    if not known:
        raise ValueError(f"config.log.to: W&B has no API key here; {mend}")


class MLflow:
    """A run of MLflow, with the config as parameters, in the experiment of MLFLOW_EXPERIMENT_NAME or "simclr_jax".

    It is kept by MLFLOW_TRACKING_URI or, where nothing says so, in RUN/mlflow.db, which `mlflow ui
    --backend-store-uri=sqlite:///RUN/mlflow.db` shows. Its id is kept in RUN/mlflow.json: a training that goes on goes
    on in the same MLflow run, where its store knows it, and one that begins anew is a new run. Rows of before the stop
    that are trained again are there already, and left out. MLflow does not let parameters change: they stay those that
    the run began with. What is not finite is a gap. A server that is asked and does not answer holds the training up as
    long as MLFLOW_HTTP_REQUEST_TIMEOUT and MLFLOW_HTTP_REQUEST_MAX_RETRIES say, once.

    Args:
      workdir: RUN.
      first_step: steps that were taken before.
      config: {"section.key": value}.

    Raises:
      Exception: of MLflow's own kinds, where it cannot start.
    """

    def __init__(self, workdir: str, first_step: int, config: Mapping[str, Any]):
        from mlflow import entities
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self._entities = entities
        folder = epath.Path(os.path.abspath(run_folder.folder(workdir)))
        elsewhere = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = MlflowClient(tracking_uri=elsewhere or _sqlite(folder / "mlflow.db"))
        self._written: dict[str, int] = {}  # the last step of each metric that is there from before
        kept = folder / "mlflow.json"
        self._run = _kept_id(kept, first_step)
        if self._run:
            try:
                known = self._client.get_run(self._run)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                known = None
            if known and known.info.lifecycle_stage == "active":
                for metric in known.data.metrics:
                    history = self._client.get_metric_history(self._run, metric)
                    self._written[metric] = max(one.step for one in history)
                self._client.update_run(self._run, status="RUNNING")
            else:
                self._run = None
        if not self._run:
            self._run = self._new_run(folder, None if elsewhere else str(folder / "mlflow-artifacts"))
            params = [entities.Param(key, str(value)) for key, value in config.items()]
            for start in range(0, len(params), _MOST_PARAMS):
                self._client.log_batch(self._run, params=params[start : start + _MOST_PARAMS])
        disk.replace_text(kept, json.dumps({"id": self._run}) + "\n")
        self._before = sys.exception()
        where = "" if elsewhere else f", in {folder / 'mlflow.db'}"  # a server's address may hold a password
        say(f"MLflow: run {self._run}{where}")

    def _new_run(self, folder: epath.Path, artifacts: str | None) -> str:
        """Makes a run, and its experiment where it is the first."""
        experiment = os.environ.get("MLFLOW_EXPERIMENT_ID")
        if not experiment:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _PROJECT
            found = self._client.get_experiment_by_name(name)
            # Without a place for artifacts a local store would have them in the folder that the process runs in.
            experiment = found.experiment_id if found else self._client.create_experiment(name, artifacts)
        return self._client.create_run(experiment, run_name=_title(folder)).info.run_id

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs a row, and has it in the store."""
        now = int(1000 * time.time())
        new = {name: value for name, value in _finite(values).items() if step > self._written.get(name, 0)}
        metrics = [self._entities.Metric(name, value, now, step) for name, value in new.items()]
        if metrics:
            self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        """Ends it: as failed while an error passes, as killed where the training was told to stop."""
        error = _passing(self._before)
        stopped = isinstance(error, preemption.Stopped)
        self._client.set_terminated(self._run, "KILLED" if stopped else "FAILED" if error else "FINISHED")


def import_tensorboardx_without_torch() -> None:
    """Imports what `TensorBoard` needs of tensorboardX without the PyTorch that it would import, which takes seconds.

    Meanwhile PyTorch counts as not installed in the whole process: for a command, not for a library.
    """
    hidden = sys.modules.setdefault("torch", None) is None
    try:
        from tensorboardX import event_file_writer, summary  # noqa: F401
    finally:
        if hidden:
            del sys.modules["torch"]


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _kept_id(path: epath.Path, first_step: int) -> str | None:
    """Returns the id of the run that is to go on, of a file that may be anybody's; None where it is to begin."""
    if not first_step or not os.path.lexists(path):
        return None
    try:
        found = json.loads(path.read_text()) if disk.is_file(path, 4096) else None
        kept = found.get("id") if isinstance(found, dict) else None
    except (OSError, ValueError, RecursionError):
        kept = None
    if isinstance(kept, str) and _ID.fullmatch(kept):
        return kept
    say(f"{path} does not tell the run's id, as it should; a new one begins")
    return None


def _passing(before: BaseException | None) -> BaseException | None:
    """Returns the error that ends the run, if one does; `before` was being handled when the run began."""
    error = sys.exception()
    return None if error is before else error


def _sqlite(path: epath.Path) -> str:
    if re.search("[?%]", str(path)):
        raise ValueError(f"its store cannot lie in {path.parent}, where ? and % would mean something else")
    return f"sqlite:///{path}"


def _title(folder: epath.Path) -> str:
    return os.path.basename(os.path.abspath(folder))


def in_words(error: Exception) -> str:
    """Returns what an error says, in one line."""
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return words if len(words) <= _LONGEST_REASON else f"{words[:_LONGEST_REASON]}…"
