"""What the output files say about a row. Nothing in it depends on when or where the row ran."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from pydantic import with_config

from surelock.batch.progress import READ_STRICTLY
from surelock.batch.task import Failure, Finished, Task
from surelock.errors import ModelError, NonFiniteLogitsError, OutOfMemoryError, ParameterError, PromptError, shown_error
from surelock.output import RequestOutput

# A real time would make two runs of one job differ.
CREATED: Final = 0


@with_config(READ_STRICTLY)
@dataclass(frozen=True, slots=True)
class Record:
    """The result of one row.

    Attributes:
        number, digest: of the row.
        failed: whether it belongs into the file of errors.
        num_tokens: generated and kept.
        flops: mode `full`: (with locking, without).
        line: the object that is written, as a line of JSON.
    """

    number: int
    digest: int
    failed: bool
    num_tokens: int
    flops: tuple[float, float]
    line: dict[str, Any]


def record_of(finished: Finished, model: str) -> Record:
    """The record of a finished row; `model` is the name of the one that ran."""
    if isinstance(finished, Failure):
        return _failed(finished)
    task, output = finished
    if output.finish_reason == "error":
        error = NonFiniteLogitsError(
            "the model's logits were NaN or infinite for this row: check the weights or use dtype float32"
        )
        return _failed(Failure(row=task.row, form=task.form, name=task.name, error=error))
    flops = output.stats.flops["full"]
    line = _plain_line(task, output) if task.form == "plain" else _openai_line(task, output, model)
    return Record(
        number=task.row.number,
        digest=task.row.digest,
        failed=False,
        num_tokens=output.generation_tokens,
        flops=(flops["locked"], flops["base"]),
        line=line,
    )


def _plain_line(task: Task, output: RequestOutput) -> dict[str, Any]:
    return {
        "row": task.row.number,
        "custom_id": task.name,
        "text": output.text,
        "finish_reason": output.finish_reason,
        "prompt_tokens": output.prompt_tokens,
        "generation_tokens": output.generation_tokens,
        **_cost(output),
        "notes": list(output.notes),
        "error": None,
    }


def _openai_line(task: Task, output: RequestOutput, model: str) -> dict[str, Any]:
    identity = task.row.identity
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": output.finish_reason}
    if task.form == "chat":
        choice |= {"message": {"role": "assistant", "content": output.text, "refusal": None}}
    else:
        choice |= {"text": output.text}
    body = {
        "id": ("chatcmpl-" if task.form == "chat" else "cmpl-") + identity,
        "object": "chat.completion" if task.form == "chat" else "text_completion",
        "created": CREATED,
        "model": model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": output.prompt_tokens,
            "completion_tokens": output.generation_tokens,
            "total_tokens": output.prompt_tokens + output.generation_tokens,
            "surelock": _cost(output) | {"notes": list(output.notes)},
        },
    }
    return _envelope(identity, task.name, 200, body, None)


def _cost(output: RequestOutput) -> dict[str, Any]:
    stats = output.stats
    return {
        "steps": stats.steps,
        "active_ratio": stats.active_ratio,
        "flops_ratio": stats.flops["full"]["ratio"],
        "seed": stats.seed,
    }


def _envelope(
    identity: str, name: str | None, status: int, body: dict[str, Any], error: dict[str, Any] | None
) -> dict[str, Any]:
    return {
        "id": f"batch_req_{identity}",
        "custom_id": name,
        "response": {"status_code": status, "request_id": f"req_{identity}", "body": body},
        "error": error,
    }


def _failed(failure: Failure) -> Record:
    row = failure.row
    status, code, message = _explained(failure.error)
    error: dict[str, Any] = {"code": code, "message": message}
    line: dict[str, Any] = {"row": row.number, "custom_id": failure.name, "error": error}
    if failure.form != "plain":
        kind = "invalid_request_error" if status == 400 else "server_error"
        body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
        line = _envelope(row.identity, failure.name, status, body, error | {"row": row.number})
    return Record(number=row.number, digest=row.digest, failed=True, num_tokens=0, flops=(0.0, 0.0), line=line)


def _explained(error: Exception) -> tuple[int, str, str]:
    """HTTP status, code and message of an error."""
    if isinstance(error, ParameterError | PromptError | ModelError):
        return 400, "invalid_request", str(error)
    if isinstance(error, OutOfMemoryError):
        return 503, "out_of_memory", str(error)
    if isinstance(error, NonFiniteLogitsError):
        return 500, "nonfinite_logits", str(error)
    return 500, "internal_error", shown_error(error)
