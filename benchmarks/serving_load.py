"""A server under many clients: every answer checked, refusals timed, memory watched, throughput of 8 clients against 1.

Starts `surelock serve` with the embedded model and one engine thread, and asks it from this process. Each answer must
equal the text that the model gives alone. The soak sends small requests and hangs up on a third of them. The client
reads HTTP by hand: a library takes longer to send a request than the server to refuse it, and 200 of them in one
process would wait for each other.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from surelock import LLM, SamplingParams
from surelock.results.environment import environment

ROUTE = "/v1/completions"
PROMPTS = ("The sea was", "Call me", "It was a dark", "The committee has", "def add(a, b):", "Once upon a time")


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; `head` is its status line and headers."""

    status: int
    head: bytes
    body: bytes


class Connection:
    """One kept connection to the server, opened when it is needed."""

    def __init__(self, url: str) -> None:
        self._host, self._port = url.removeprefix("http://").split(":")
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, body: dict[str, Any]) -> Answer:
        """Ask ROUTE."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, int(self._port))
        reader, writer = self._streams
        content = json.dumps(body).encode()
        head = f"POST {ROUTE} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode())
        # Apart, as the official client sends it.
        writer.write(content)
        head_bytes = await reader.readuntil(b"\r\n\r\n")
        if length := re.search(rb"\r\ncontent-length: (\d+)", head_bytes, re.IGNORECASE):
            parts = [await reader.readexactly(int(length[1]))]
        else:
            parts = []
            while size := int(await reader.readline(), 16):
                parts.append((await reader.readexactly(size + 2))[:-2])
            await reader.readline()
        return Answer(int(head_bytes.split(b" ", 2)[1]), head_bytes, b"".join(parts))

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Load:
    """What the clients saw."""

    def __init__(self, url: str, expected: dict[str, str], bodies: list[dict[str, Any]]) -> None:
        self.url = url
        self.expected = expected
        self.bodies = bodies
        self.statuses: Counter[str] = Counter()
        self.answer_seconds: list[float] = []
        self.refusal_seconds: list[float] = []
        self.num_wrong = 0

    async def client(self, http: Connection, number: int, until: float, *, hang_up: float = 0.0) -> None:
        """Ask one thing after another; hang_up is the share of requests that are abandoned."""
        chance = random.Random(number)
        while time.monotonic() < until:
            index = chance.randrange(len(self.bodies))
            body = self.bodies[index] | {"stream": chance.random() < 0.5}
            if chance.random() < hang_up:
                await self._abandon(http, body, chance.random() * 0.2)
            else:
                await self._ask(http, body, self.expected[str(index)])

    async def _ask(self, http: Connection, body: dict[str, Any], expected: str) -> None:
        started = time.perf_counter()
        answer = await http.post(body)
        seconds = time.perf_counter() - started
        self.statuses[str(answer.status)] += 1
        if answer.status == 503:
            self.refusal_seconds.append(seconds)
            assert re.search(rb"\r\nretry-after: [1-9]", answer.head, re.IGNORECASE)
            # A client of a busy service waits; much less than it is asked to, so that the queue stays full.
            await asyncio.sleep(0.2)
            return
        self.answer_seconds.append(seconds)
        self.num_wrong += answer.status != 200 or text_of(answer, body["stream"]) != expected

    async def _abandon(self, http: Connection, body: dict[str, Any], seconds: float) -> None:
        self.statuses["abandoned"] += 1
        try:
            async with asyncio.timeout(seconds):
                await http.post(body)
        except TimeoutError:
            http.close()

    def report(self) -> dict[str, Any]:
        """Plain values for the result file."""
        return {
            "statuses": dict(self.statuses),
            "wrong_answers": self.num_wrong,
            "answer_seconds": quantiles(self.answer_seconds),
            "refusal_seconds_at_the_client": quantiles(self.refusal_seconds),
        }


class Server:
    """`surelock serve` as a process of its own."""

    def __init__(self, *options: str) -> None:
        code = "from surelock.cli.main import app; app()"
        command = [sys.executable, "-c", code, "serve", "--port", "0", "--threads", "1", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.refusal_milliseconds: list[float] = []
        self.url = ""
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._ready.wait(120)

    def stop(self) -> int:
        """Its exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(120)
        self._reader.join()
        return code

    @property
    def resident_mib(self) -> float:
        """Memory it has."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def gauges(self) -> dict[str, float]:
        """What must be 0 when nobody asks."""
        text = httpx.get(f"{self.url}/metrics", trust_env=False).text
        return {name: float(value) for name, value in re.findall(r"^(surelock_requests_\w+ing) ([\d.]+)$", text, re.M)}

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"serving .* at (http://\S+)", line):
                self.url = found[1]
                self._ready.set()
            if found := re.search(r" 503 ([\d.]+) ms", line):
                self.refusal_milliseconds.append(float(found[1]))


def main() -> None:
    """Run what was asked for and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="result file (JSON)")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60, help="of the load")
    parser.add_argument("--soak-seconds", type=float, default=600)
    parser.add_argument("--throughput-seconds", type=float, default=20, help="of each side")
    arguments = parser.parse_args()
    bodies = [{"prompt": prompt, "max_tokens": num} for prompt in PROMPTS for num in (2, 4, 8)]
    llm = LLM(device="cpu")
    expected = {
        str(index): llm.generate(body["prompt"], SamplingParams(max_tokens=body["max_tokens"]))[0].text
        for index, body in enumerate(bodies)
    }
    result = {
        "command": " ".join(["python", "benchmarks/serving_load.py", *sys.argv[1:]]),
        "environment": environment(),
        "throughput": throughput(arguments.throughput_seconds, expected, bodies),
        "load": load(arguments.clients, arguments.seconds, expected, bodies),
        "soak": soak(arguments.soak_seconds, expected, bodies),
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def throughput(seconds: float, expected: dict[str, str], bodies: list[dict[str, Any]]) -> dict[str, Any]:
    """Answers a second of 8 clients and of one, in turn on one server."""
    server = Server()
    rates: dict[int, list[float]] = {1: [], 8: []}
    for num in (1, 8, 1, 8):
        seen = Load(server.url, expected, bodies)
        started = time.monotonic()
        asyncio.run(clients(seen, num, started + seconds / 2))
        assert not seen.num_wrong
        rates[num].append(len(seen.answer_seconds) / (time.monotonic() - started))
    server.stop()
    one, eight = (statistics.mean(rates[num]) for num in (1, 8))
    return {"answers_per_second": {"1": one, "8": eight}, "ratio": eight / one}


def load(num: int, seconds: float, expected: dict[str, str], bodies: list[dict[str, Any]]) -> dict[str, Any]:
    """Many more clients than there are places."""
    server = Server("--max-waiting", "32")
    seen = Load(server.url, expected, bodies)
    asyncio.run(clients(seen, num, time.monotonic() + seconds))
    gauges = server.gauges()
    code = server.stop()
    milliseconds = quantiles(server.refusal_milliseconds)
    return {"clients": num, "seconds": seconds, "exit_code": code, "gauges_after": gauges} | (
        seen.report() | {"refusal_milliseconds_in_the_server": milliseconds}
    )


def soak(seconds: float, expected: dict[str, str], bodies: list[dict[str, Any]]) -> dict[str, Any]:
    """Small requests, a third of them abandoned, and the memory of the server in twenty moments."""
    server = Server()
    seen = Load(server.url, expected, bodies)
    resident: list[float] = []

    async def watch() -> None:
        for _ in range(20):
            await asyncio.sleep(seconds / 20)
            resident.append(round(server.resident_mib, 1))

    async def everything() -> None:
        await asyncio.gather(clients(seen, 16, time.monotonic() + seconds, hang_up=1 / 3), watch())

    asyncio.run(everything())
    time.sleep(1)
    gauges = server.gauges()
    code = server.stop()
    return {"seconds": seconds, "exit_code": code, "gauges_after": gauges, "resident_mib": resident} | seen.report()


async def clients(seen: Load, num: int, until: float, *, hang_up: float = 0.0) -> None:
    """All at once, on a connection each."""
    with contextlib.ExitStack() as stack:
        each = [stack.enter_context(contextlib.closing(Connection(seen.url))) for _ in range(num)]
        async with asyncio.TaskGroup() as group:
            for number, http in enumerate(each):
                group.create_task(seen.client(http, number, until, hang_up=hang_up))


def text_of(answer: Answer, streamed: bool) -> str:
    """The text of an answer, whole or in pieces."""
    if not streamed:
        text: str = json.loads(answer.body)["choices"][0]["text"]
        return text
    chunks = [json.loads(line[6:]) for line in answer.body.splitlines() if line.startswith(b"data: {")]
    return "".join(chunk["choices"][0]["text"] for chunk in chunks)


def quantiles(values: list[float]) -> dict[str, float | int]:
    """Median, 99th percentile and largest, with how many there are."""
    ordered = sorted(values)
    if not ordered:
        return {"num": 0}
    at = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    picked = {name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in at.items()}
    return {"num": len(ordered)} | picked


if __name__ == "__main__":
    main()
