"""`run_job`: one batch job from its beginning, or from wherever it was stopped, to its output."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from surelock.batch.folder import ERRORS, JobFolder
from surelock.batch.input import Scan, check_source, scan
from surelock.batch.journal import Journal, drop_failed, has_answers
from surelock.batch.manifest import Manifest, options_of
from surelock.batch.outputs import check_carried, check_output_kind, write_output
from surelock.batch.progress import Progress, Totals
from surelock.batch.stop import Stop
from surelock.batch.task import Defaults
from surelock.batch.work import Work, Worker
from surelock.errors import JobError, ParameterError
from surelock.params import SamplingParams

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is asked for.

    Attributes:
        params: of rows that do not say otherwise; `seed` is the job's, None to draw one.
        model: how the model was asked for; asked for otherwise it is another job.
        prompt_column: where plain rows have their text.
        force_new: forget what was done before, and replace the output.
        retry_errors: run the rows again that failed before.
    """

    input: Path
    output: Path
    params: SamplingParams
    model: dict[str, Any]
    prompt_column: str = "prompt"
    force_new: bool = False
    retry_errors: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a job ended.

    Attributes:
        totals: of all its rows.
        errors: the file of the rows that failed, if any did.
        seed: of the job.
        progress: the last of this run; None if nothing was left to run.
    """

    totals: Totals
    output: Path
    errors: Path | None
    seed: int
    progress: Progress | None


def run_job(job: Job, worker: Worker, *, stop: Stop | None = None, on_progress: OnProgress | None = None) -> Outcome:
    """Run what is left of a job, and write its output when nothing is.

    Args:
        worker: decodes; not asked for anything if nothing is left.
        stop: raises KeyboardInterrupt here when a signal comes; what is done is in the journal then.
        on_progress: called after every step that finished rows, and at the beginning.

    Raises:
        ParameterError: input, output or options do not fit each other, or not the job begun earlier.
        PromptError: the input cannot be read or holds no row.
        JobBusyError: another process works on this job.
        JobError: a file cannot be read or written; what is done is kept.
    """
    check_source(job.input, job.prompt_column)
    folder = JobFolder.of(job.output)
    _check_output(job, folder)
    stop = stop or Stop()
    with folder.locked():
        with stop.interrupting():
            found, manifest = _begin(job, folder)
        if manifest.finished is not None and folder.output.exists():
            return _outcome(folder, manifest, manifest.finished, None)
        with Journal(folder.journal, found.digests) as journal:
            progress = None
            if journal.num_left:
                defaults = Defaults(
                    params=replace(job.params, seed=None), seed=manifest.seed, prompt_column=job.prompt_column
                )
                manifest, progress = _run(worker, Work(found, journal, defaults), folder, manifest, stop, on_progress)
            journal.sync()
            with stop.interrupting():
                write_output(folder, journal, found)
            totals = journal.totals
        if not totals.num_failed:
            # Nothing is left to resume or to retry, and the journal is as large as the output.
            manifest = replace(manifest, finished=totals)
            manifest.write(folder.manifest)
            folder.journal.unlink()
        return _outcome(folder, manifest, totals, progress)


def _check_output(job: Job, folder: JobFolder) -> None:
    check_output_kind(folder.output)
    if folder.output.name.endswith(ERRORS):
        raise ParameterError(
            f"--output {job.output}: a name that ends with {ERRORS} is for the rows of another job that failed; choose "
            "another output"
        )
    if job.input.resolve() in (folder.output, folder.errors):
        raise ParameterError(f"--input and the files of --output {job.output} are the same; choose another output")
    if not folder.output.parent.is_dir():
        raise ParameterError(f"--output {job.output}: the folder {folder.output.parent} does not exist; create it")
    for path in (folder.output, folder.errors):
        if path.exists() and not path.is_file():
            raise ParameterError(f"--output {path} exists and is not a regular file; choose another path")


def _begin(job: Job, folder: JobFolder) -> tuple[Scan, Manifest]:
    """The input and the manifest; that of a new job has no model yet and is not written."""
    if job.force_new:
        folder.clear()
    found = scan(job.input, job.prompt_column)
    check_carried(found, folder.output)
    source = {"number of rows": found.num_rows, "sha256": found.sha256}
    options = options_of(job.params, job.prompt_column, job.model)
    manifest = Manifest.read(folder.manifest)
    is_anew = job.force_new
    is_changed = manifest is not None and not manifest.is_same(source, options)
    if is_changed and folder.journal.exists() and not has_answers(folder.journal):
        # Nothing is lost, and the change may be what answers the rows.
        folder.clear()
        manifest, is_anew = None, True
    if manifest is None:
        for path in (folder.output, folder.errors):
            if path.exists() and not is_anew:
                raise ParameterError(
                    f"{path} exists and is not of an unfinished job: choose another --output, or replace it with "
                    "--force-new"
                )
        # Left by a job that ended before it had begun.
        folder.journal.unlink(missing_ok=True)
        seed = secrets.randbits(32) if job.params.seed is None else job.params.seed
        return found, Manifest(input=source, options=options, seed=seed)
    manifest.check_same("input", source)
    manifest.check_same("options", options)
    if job.params.seed not in (None, manifest.seed):
        raise ParameterError(
            f"--seed was {manifest.seed} when this job began and is {job.params.seed} now: leave it out, or start "
            "over with --force-new"
        )
    if job.retry_errors and folder.journal.exists():
        drop_failed(folder.journal)
    return found, manifest


def _run(
    worker: Worker, work: Work, folder: JobFolder, manifest: Manifest, stop: Stop, on_progress: OnProgress | None
) -> tuple[Manifest, Progress]:
    """Record all that is left; returns the manifest as it is on the disk, and how it went."""
    journal = work.journal
    before, began_at = journal.totals, None
    with closing(worker(work)) as results:
        while True:
            # What a signal drops here runs again; nothing is written meanwhile.
            with stop.interrupting():
                done = next(results, None)
            if done is None:
                break
            if manifest.model is None:
                manifest = replace(manifest, model=done.model)
                manifest.write(folder.manifest)
            manifest.check_same("model", done.model)
            began_at = began_at or time.monotonic()
            for record in done.records:
                work.scan.check_same(record.number, record.digest)
                journal.append(record)
            progress = Progress(
                totals=journal.totals,
                before=before,
                num_rows=work.scan.num_rows,
                seconds=time.monotonic() - began_at,
                num_bytes_dropped=journal.num_bytes_dropped,
            )
            if on_progress is not None:
                on_progress(progress)
    if journal.num_left:
        raise JobError(f"{journal.num_left} rows came back without a record: run the same command again")
    return manifest, progress


def _outcome(folder: JobFolder, manifest: Manifest, totals: Totals, progress: Progress | None) -> Outcome:
    errors = folder.errors if totals.num_failed else None
    return Outcome(totals=totals, output=folder.output, errors=errors, seed=manifest.seed, progress=progress)
