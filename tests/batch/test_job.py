"""A job begins, stops anywhere, goes on and ends; or says in one line why not. No model is needed for that."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from surelock.batch.job import run_job
from surelock.batch.progress import Progress
from surelock.batch.stop import Stop
from surelock.batch.work import Work
from surelock.errors import JobBusyError, JobError, ParameterError, PromptError
from surelock.params import LockParams, SamplingParams
from tests.batch.jobs import MODEL, FakeWorker, job, read_lines, write_lines

ROWS: list[object] = [{"prompt": f"row {number}"} for number in range(1, 9)]
BAD_ROWS: list[object] = [*ROWS[:3], b"{", {"max_tokens": 3}, *ROWS[3:]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_lines(tmp_path / "in.jsonl", BAD_ROWS)
    return tmp_path


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("out*.jsonl")}


def stopped_at(folder: Path, number: int, **overrides: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_job(job(folder, **overrides), FakeWorker(breaks_at=number))
    assert outputs(folder) == {}


def test_output_and_errors_in_the_order_of_the_input(folder: Path) -> None:
    outcome = run_job(job(folder), FakeWorker())
    assert [line["row"] for line in read_lines(folder / "out.jsonl")] == [1, 2, 3, 6, 7, 8, 9, 10]
    errors = read_lines(folder / "out.errors.jsonl")
    assert [line["row"] for line in errors] == [4, 5]
    assert [line["error"]["code"] for line in errors] == ["invalid_request"] * 2
    assert (outcome.totals.num_done, outcome.totals.num_failed, outcome.totals.num_tokens) == (10, 2, 16)
    assert (outcome.output, outcome.errors) == (folder / "out.jsonl", folder / "out.errors.jsonl")
    assert outcome.totals.saved == 0.75
    assert outcome.seed == 1


@pytest.mark.parametrize("number", range(1, 11))
def test_resumed_anywhere_the_files_are_the_same(folder: Path, tmp_path: Path, number: int) -> None:
    (tmp_path / "whole").mkdir()
    write_lines(tmp_path / "whole" / "in.jsonl", BAD_ROWS)
    run_job(job(tmp_path / "whole"), FakeWorker())

    stopped_at(folder, number)
    worker = FakeWorker()
    outcome = run_job(job(folder), worker)
    assert worker.numbers == list(range(number, 11))
    assert outcome.progress is not None
    assert outcome.progress.before.num_done == number - 1
    assert outputs(folder) == outputs(tmp_path / "whole")


def test_a_drawn_seed_stays_that_of_the_job(folder: Path) -> None:
    drawn = {"params": SamplingParams()}
    stopped_at(folder, 5, **drawn)
    first = run_job(job(folder, **drawn), FakeWorker())
    again = run_job(job(folder, force_new=True, params=SamplingParams(seed=first.seed)), FakeWorker())
    assert first.seed == again.seed
    before = outputs(folder)
    run_job(job(folder, force_new=True, params=SamplingParams(seed=first.seed)), FakeWorker())
    assert outputs(folder) == before
    run_job(job(folder, force_new=True, params=SamplingParams(seed=first.seed + 1)), FakeWorker())
    assert outputs(folder) != before


def test_progress(folder: Path) -> None:
    stopped_at(folder, 4)
    seen: list[Progress] = []
    run_job(job(folder), FakeWorker(), on_progress=seen.append)
    assert [each.totals.num_done for each in seen] == list(range(3, 11))
    assert {each.num_rows for each in seen} == {10}
    assert seen[0].seconds_left is None
    assert seen[-1].seconds_left == 0


class TestAgain:
    def test_a_complete_job_runs_nothing(self, folder: Path) -> None:
        run_job(job(folder), FakeWorker())
        before = outputs(folder)
        worker = FakeWorker()
        outcome = run_job(job(folder), worker)
        assert worker.numbers == []
        assert outcome.progress is None
        assert outputs(folder) == before

    def test_without_failures_the_journal_goes(self, folder: Path) -> None:
        write_lines(folder / "in.jsonl", ROWS)
        first = run_job(job(folder), FakeWorker())
        assert sorted(path.name for path in (folder / "out.jsonl.surelock").iterdir()) == ["lock", "manifest.json"]
        assert run_job(job(folder), FakeWorker()).totals == first.totals
        # Somebody moved the output away.
        (folder / "out.jsonl").unlink()
        worker = FakeWorker()
        run_job(job(folder), worker)
        assert len(worker.numbers) == 8

    def test_failed_rows_can_run_again(self, folder: Path) -> None:
        run_job(job(folder), FakeWorker())
        worker = FakeWorker()
        outcome = run_job(job(folder, retry_errors=True), worker)
        assert worker.numbers == [4, 5]
        assert outcome.totals.num_failed == 2

    def test_a_retry_that_is_stopped_goes_on(self, folder: Path) -> None:
        run_job(job(folder), FakeWorker())
        before = outputs(folder)
        with pytest.raises(KeyboardInterrupt):
            run_job(job(folder, retry_errors=True), FakeWorker(breaks_at=5))
        worker = FakeWorker()
        run_job(job(folder), worker)
        assert worker.numbers == [5]
        assert outputs(folder) == before

    def test_while_no_row_has_an_answer_the_job_may_change(self, folder: Path) -> None:
        write_lines(folder / "in.jsonl", [{"question": "a"}, {"question": "b"}])
        first = run_job(job(folder), FakeWorker())
        assert (first.totals.num_done, first.totals.num_failed) == (2, 2)
        outcome = run_job(job(folder, prompt_column="question"), FakeWorker())
        assert (outcome.totals.num_done, outcome.totals.num_failed, outcome.errors) == (2, 0, None)
        assert list(outputs(folder)) == ["out.jsonl"]
        with pytest.raises(ParameterError, match="prompt column was 'question' when this job began"):
            run_job(job(folder), FakeWorker())

    def test_errors_of_an_earlier_job_do_not_stay(self, folder: Path) -> None:
        run_job(job(folder), FakeWorker())
        write_lines(folder / "in.jsonl", ROWS)
        run_job(job(folder, force_new=True), FakeWorker())
        assert list(outputs(folder)) == ["out.jsonl"]


class TestRefused:
    @pytest.mark.parametrize(
        ("overrides", "fragment"),
        [
            ({"params": SamplingParams(max_tokens=5)}, "max_tokens was 128 when this job began and is 5 now"),
            ({"params": SamplingParams(lock=None)}, "lock was None when this job began and is False now"),
            ({"params": SamplingParams(lock=LockParams(kl_threshold=0.1))}, "lock.kl_threshold was 0.0005"),
            ({"params": SamplingParams(stop=("x",))}, r"stop was \[\] when"),
            ({"params": SamplingParams(seed=2)}, "--seed was 1 when this job began and is 2 now"),
            ({"prompt_column": "text"}, "prompt column was 'prompt'"),
            ({"model": {"model": "other"}}, "model was None when this job began and is 'other' now"),
        ],
    )
    def test_changed_options(self, folder: Path, overrides: dict[str, Any], fragment: str) -> None:
        stopped_at(folder, 5)
        with pytest.raises(ParameterError, match=fragment) as caught:
            run_job(job(folder, **overrides), FakeWorker())
        assert "--force-new" in str(caught.value)
        run_job(job(folder, **overrides, force_new=True), FakeWorker())

    def test_changed_input(self, folder: Path) -> None:
        stopped_at(folder, 5)
        write_lines(folder / "in.jsonl", [*BAD_ROWS[:-1], {"prompt": "row 9"}])
        with pytest.raises(ParameterError, match=r"the input's sha256 was '.* when this job began"):
            run_job(job(folder), FakeWorker())
        write_lines(folder / "in.jsonl", BAD_ROWS[:-1])
        with pytest.raises(ParameterError, match="the input's number of rows was 10 when this job began and is 9 now"):
            run_job(job(folder), FakeWorker())
        write_lines(folder / "in.jsonl", BAD_ROWS)
        run_job(job(folder), FakeWorker())

    def test_changed_model_files(self, folder: Path) -> None:
        stopped_at(folder, 5)
        worker = FakeWorker(MODEL | {"fingerprint": "1"})
        with pytest.raises(ParameterError, match="the model's fingerprint was '0' when this job began and is '1' now"):
            run_job(job(folder), worker)
        assert worker.numbers == []

    def test_changed_version(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        stopped_at(folder, 5)
        monkeypatch.setattr("surelock.batch.manifest.version", lambda name: "99")
        with pytest.raises(ParameterError, match=r"version of surelock was '.*' when this job began and is '99' now"):
            run_job(job(folder), FakeWorker())

    @pytest.mark.parametrize("name", ["out.jsonl", "out.errors.jsonl"])
    def test_files_of_somebody_else(self, folder: Path, name: str) -> None:
        (folder / name).write_text("precious")
        with pytest.raises(ParameterError, match=f"{name} exists and is not of an unfinished job"):
            run_job(job(folder), FakeWorker())
        assert (folder / name).read_text() == "precious"
        assert not (folder / "out.jsonl.surelock").exists()

    @pytest.mark.parametrize(
        ("output", "fragment"),
        [
            ("out.txt", "ends with none of .jsonl, .csv, .parquet"),
            ("in.jsonl", "are the same"),
            ("missing/out.jsonl", "does not exist; create it"),
            ("folder.jsonl", "is not a regular file"),
        ],
    )
    def test_outputs_that_cannot_be(self, folder: Path, output: str, fragment: str) -> None:
        (folder / "folder.jsonl").mkdir()
        with pytest.raises(ParameterError, match=fragment):
            run_job(job(folder, output=folder / output), FakeWorker())

    def test_an_input_without_rows(self, folder: Path) -> None:
        (folder / "in.jsonl").write_text("")
        with pytest.raises(PromptError, match="holds no row"):
            run_job(job(folder), FakeWorker())
        assert not (folder / "out.jsonl.surelock").exists()

    @pytest.mark.parametrize(
        ("content", "fragment"),
        [
            ('{"input"', "is damaged (no JSON), so the job cannot go on; start over with --force-new"),
            ("null", "is damaged ("),
            ("[]", "is damaged ("),
            ('{"input": null}', "is damaged (input: "),
            ('{"options": 5}', "is damaged (options: "),
            ('{"seed": null}', "is damaged (seed: "),
            ('{"seed": "1"}', "is damaged (seed: "),
            ('{"seed": -1}', "is damaged (seed: "),
            ('{"model": "x"}', "is damaged (model: "),
            ('{"finished": {"num_done": null}}', "is damaged (finished.num_done: "),
            ('{"finished": {"rows": 1}}', "is damaged (finished.rows: "),
            ('{"format": 2}', "is damaged (format: "),
            ('{"other": 2}', "is damaged (other: "),
            (" " * (1 << 20), "is damaged (no JSON)"),
        ],
    )
    def test_a_damaged_manifest(self, folder: Path, content: str, fragment: str) -> None:
        stopped_at(folder, 5)
        path = folder / "out.jsonl.surelock" / "manifest.json"
        if content.startswith('{"') and content.endswith("}"):
            content = orjson.dumps(orjson.loads(path.read_bytes()) | orjson.loads(content)).decode()
        path.write_text(content)
        with pytest.raises(JobError) as caught:
            run_job(job(folder), FakeWorker())
        assert fragment in str(caught.value)
        assert "\n" not in str(caught.value)
        run_job(job(folder, force_new=True), FakeWorker())

    @pytest.mark.parametrize("name", ["manifest.json", "rows.journal"])
    def test_what_is_no_regular_file_is_never_waited_for(self, folder: Path, name: str) -> None:
        stopped_at(folder, 5)
        path = folder / "out.jsonl.surelock" / name
        path.unlink()
        os.mkfifo(path)
        for overrides in ({}, {"retry_errors": True}):
            with pytest.raises(JobError, match=f"{name} is not a regular file, so the job cannot go on; remove it"):
                run_job(job(folder, **overrides), FakeWorker())
        path.unlink()
        path.symlink_to("/dev/zero")
        with pytest.raises(JobError, match=f"{name} is not a regular file"):
            run_job(job(folder), FakeWorker())

    def test_a_link_in_the_place_of_what_is_written(self, folder: Path) -> None:
        (folder / "precious").write_text("precious")
        for name in ("out.jsonl.partial", "out.errors.jsonl.partial"):
            (folder / name).symlink_to("precious")
        run_job(job(folder), FakeWorker())
        assert (folder / "precious").read_text() == "precious"
        assert not any(path.is_symlink() for path in folder.iterdir())

    @pytest.mark.parametrize(
        ("output", "fragment"),
        [
            ("loop.jsonl", "is a link that leads back to itself; remove it"),
            ("a" * 245 + ".jsonl", "is too long a name: with what a job adds it has 266 bytes, and the limit is 255"),
            ("é" * 120 + ".csv", "is too long a name"),
            ("other.errors.jsonl", r"a name that ends with .errors.jsonl is for the rows of another job that failed"),
        ],
    )
    def test_names_that_cannot_be(self, folder: Path, output: str, fragment: str) -> None:
        (folder / "loop.jsonl").symlink_to("loop.jsonl")
        before = sorted(folder.iterdir())
        with pytest.raises(ParameterError, match=fragment):
            run_job(job(folder, output=folder / output), FakeWorker())
        assert sorted(folder.iterdir()) == before

    def test_the_longest_name_that_can_be(self, folder: Path) -> None:
        run_job(job(folder, output=folder / ("a" * 228 + ".jsonl")), FakeWorker())
        assert (folder / ("a" * 228 + ".errors.jsonl")).exists()

    def test_a_second_process(self, folder: Path) -> None:
        """By any name of the output; and once the first has ended, the job goes on."""
        stopped_at(folder, 5)
        (folder / "link.jsonl").symlink_to(folder / "out.jsonl")
        path = folder / "out.jsonl.surelock" / "lock"
        hold = f"import fcntl,sys; f=open({str(path)!r}); fcntl.flock(f,2); print(flush=True); sys.stdin.read()"
        with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            for name in ("out.jsonl", "link.jsonl"):
                with pytest.raises(JobBusyError, match="another process works on"):
                    run_job(job(folder, output=folder / name), FakeWorker())
            holder.kill()
        run_job(job(folder, output=folder / "link.jsonl"), FakeWorker())
        assert (folder / "link.jsonl").is_symlink()
        assert len(read_lines(folder / "out.jsonl")) == 8


def test_a_model_that_cannot_be_loaded_leaves_nothing_behind(folder: Path) -> None:
    def failing_worker(work: object) -> Any:
        raise ParameterError("no such model")
        yield

    with pytest.raises(ParameterError, match="no such model"):
        run_job(job(folder), failing_worker)
    assert sorted(path.name for path in folder.iterdir()) == ["in.jsonl"]


def test_an_error_of_the_worker_keeps_what_is_done(folder: Path) -> None:
    with pytest.raises(JobError, match="decoding stopped"):
        run_job(job(folder), FakeWorker(breaks_at=8, error=JobError("decoding stopped")))
    worker = FakeWorker()
    run_job(job(folder), worker)
    assert worker.numbers == [8, 9, 10]


def test_rows_that_never_come_back_are_not_left_out(folder: Path) -> None:
    def forgetful_worker(work: Work) -> Any:
        yield from (done for number, done in enumerate(FakeWorker()(work)) if number != 3)

    with pytest.raises(JobError, match="1 rows came back without a record: run the same command again"):
        run_job(job(folder), forgetful_worker)
    assert outputs(folder) == {}
    worker = FakeWorker()
    run_job(job(folder), worker)
    assert worker.numbers == [3]


def test_an_input_that_changes_while_the_job_runs(folder: Path) -> None:
    def change(progress: object) -> None:
        write_lines(folder / "in.jsonl", [{"prompt": "x" * 100_000}] * 10)

    write_lines(folder / "in.jsonl", [{"prompt": "y" * 100_000}] * 10)
    with pytest.raises(JobError, match="changed at row 1 while the job ran"):
        run_job(job(folder), FakeWorker(), on_progress=change)


def test_a_disk_that_is_full_at_the_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    stopped_at(folder, 10)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(JobError, match=r"cannot be written: No space left on device; the journal is kept"):
            run_job(job(folder), FakeWorker())
    assert outputs(folder) == {}
    assert not list(folder.glob("*.partial"))
    worker = FakeWorker()
    run_job(job(folder), worker)
    assert worker.numbers == []
    assert len(outputs(folder)) == 2


def test_a_signal_while_the_output_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop()
    monkeypatch.setattr("surelock.batch.outputs.orjson", SimpleNamespace(dumps=lambda line: os.kill(os.getpid(), 15)))
    with stop.listening(), pytest.raises(KeyboardInterrupt):
        run_job(job(folder), FakeWorker(), stop=stop)
    assert outputs(folder) == {}
    monkeypatch.undo()
    worker = FakeWorker()
    run_job(job(folder), worker)
    assert worker.numbers == []
