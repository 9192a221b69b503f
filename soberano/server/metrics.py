"""What the engine tells Prometheus: vLLM's names with our prefix, so that dashboards for one fit the other.

    soberano:num_requests_running, _waiting                       gauges
    soberano:prompt_tokens_total, generation_tokens_total         counters
    soberano:request_success_total{finished_reason}               counter: stop, length, abort (client left), error
    soberano:time_to_first_token_seconds                          from submission to the first token drawn
    soberano:inter_token_latency_seconds                          between two tokens of one answer
    soberano:e2e_request_latency_seconds, request_queue_time_seconds
    soberano:request_prefill_time_seconds, request_decode_time_seconds
    soberano:request_prompt_tokens, request_generation_tokens

Tokens count when they are drawn, those that end an answer included, and not when their text is final: a character may
take several, and what may be the beginning of a stop string waits for the next. Every metric carries `model_name`. No
label holds anything that a client sent.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily

from soberano.server.engine import Engine
from soberano.server.errors import Cancelled
from soberano.server.jobs import Admitted, Drawn, Event, Failed, Finished, Job

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5)
TOKENS = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 131072)


@dataclass
class _Clock:
    """Times of one job, of time.monotonic."""

    admitted: float = 0.0
    last: float | None = None


class _Gauges:
    """Read at every scrape rather than kept."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def collect(self) -> Iterable[Metric]:
        if not self.engine.loaded.done() or self.engine.loaded.exception():
            return
        for name, value, text in (
            ("running", self.engine.running, "Requests that hold cache pages"),
            ("waiting", self.engine.waiting, "Requests in the queue"),
        ):
            gauge = GaugeMetricFamily(f"soberano:num_requests_{name}", text, labels=["model_name"])
            gauge.add_metric([self.engine.name], value)
            yield gauge


class Metrics:
    """Hears every event of an engine. Its own registry: two servers in one process do not mix."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.registry = CollectorRegistry()
        self.registry.register(_Gauges(engine))
        self._clocks: dict[Job, _Clock] = {}
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of admitted requests")
        self.generation_tokens = self._counter("generation_tokens", "Generated tokens")
        self.success = self._counter("request_success", "Requests that ended", "finished_reason")
        self.first = self._histogram("time_to_first_token_seconds", "Submission to first token", SECONDS)
        self.between = self._histogram("inter_token_latency_seconds", "Between two tokens of one answer", SHORT)
        self.whole = self._histogram("e2e_request_latency_seconds", "Submission to end", SECONDS)
        self.queue = self._histogram("request_queue_time_seconds", "Submission to admission", SECONDS)
        self.prefill = self._histogram("request_prefill_time_seconds", "Admission to first token", SECONDS)
        self.decode = self._histogram("request_decode_time_seconds", "First token to last", SECONDS)
        self.prompts = self._histogram("request_prompt_tokens", "Prompt tokens of a request", TOKENS)
        self.answers = self._histogram("request_generation_tokens", "Generated tokens of a request", TOKENS)
        engine.watchers.append(self.hear)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"soberano:{name}", text, ["model_name", *labels], registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"soberano:{name}", text, ["model_name"], buckets=buckets, registry=self.registry)

    def hear(self, job: Job, event: Event | Drawn) -> None:
        """Count one event. Runs on the engine's thread."""
        model, now = self.engine.name, time.monotonic()
        clock = self._clocks.setdefault(job, _Clock())
        if isinstance(event, Admitted):
            clock.admitted = now
            self.queue.labels(model).observe(now - job.submitted)
            self.prompt_tokens.labels(model).inc(event.prompt_tokens)
            self.prompts.labels(model).observe(event.prompt_tokens)
        elif isinstance(event, Drawn):
            if clock.last is None:
                self.first.labels(model).observe(now - job.submitted)
                self.prefill.labels(model).observe(now - clock.admitted)
            else:
                self.between.labels(model).observe(now - clock.last)
            self.generation_tokens.labels(model).inc()
            clock.last = now
        elif isinstance(event, Finished):
            self._end(job, event.reason, now)
            self.answers.labels(model).observe(event.completion_tokens)
            self.decode.labels(model).observe(event.timings.get("decode_s", 0.0))
        elif isinstance(event, Failed):
            self._end(job, "abort" if isinstance(event.error, Cancelled) else "error", now)

    def _end(self, job: Job, reason: str, now: float) -> None:
        model = self.engine.name
        self.success.labels(model, reason).inc()
        self.whole.labels(model).observe(now - job.submitted)
        self._clocks.pop(job, None)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
