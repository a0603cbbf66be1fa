"""From nothing to streamed text on a real Kubernetes: what `make demo` runs.

Every stage is safe to repeat, so a second run is a check and an interrupted one goes on. The
script knows only what a user has: the devcluster's commands, `helm`, `kubectl` and the `openai`
client.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openai import OpenAI
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "samples"
NAMESPACE = "default"
NAME = "tiny-kjv"
QUESTION = "Tell me of the king who built a house upon the mountain."
DEVCLUSTER = [sys.executable, "-m", "devcluster"]


class DemoError(Exception):
    """A stage failed; the text says which and what to do."""


@dataclass
class Timeline:
    """Seconds of each stage, in order, and until the first token."""

    console: Console
    started: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)
    first_token: float | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce a stage and record how long it took."""
        self.console.print(f"\n[bold cyan]▸ {name}[/]")
        begin = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - begin
        self.console.print(f"[dim]  {self.seconds[name]:.1f} s[/]")

    def document(self) -> dict[str, Any]:
        """The record as JSON-ready values; all times in seconds."""
        return {
            "stages": self.seconds,
            "firstToken": self.first_token,
            "total": time.monotonic() - self.started,
        }


@dataclass(frozen=True)
class Cluster:
    """The client tools and the kubeconfig that they use."""

    tools: Path
    kubeconfig: str

    @classmethod
    def of_devcluster(cls) -> "Cluster":
        """Ask the running devcluster where its tools lie."""
        tools = Path(_output([*DEVCLUSTER, "tools"]).strip())
        return cls(tools, _output([*DEVCLUSTER, "kubeconfig"]).strip())

    def kubectl(self, *args: str) -> str:
        """Run kubectl and return its output; raises DemoError with its own message."""
        return _output([str(self.tools / "kubectl"), "--kubeconfig", self.kubeconfig, *args])

    def helm(self, *args: str) -> str:
        """Run helm and return its output; raises DemoError with its own message."""
        return _output([str(self.tools / "helm"), "--kubeconfig", self.kubeconfig, *args])

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """One object of the demo's namespace."""
        text = self.kubectl("-n", NAMESPACE, "get", kind, name, "-o", "json")
        document: dict[str, Any] = json.loads(text)
        return document


def _output(command: list[str]) -> str:
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise DemoError(f"`{' '.join(command)}` failed:\n{done.stderr.strip() or done.stdout}")
    return done.stdout


def _show(command: list[str]) -> None:
    """Run a command whose own progress the user should see."""
    if subprocess.run(command, check=False, cwd=ROOT).returncode != 0:
        raise DemoError(f"`{' '.join(command)}` failed; its message stands above")


def condition(document: dict[str, Any], kind: str) -> dict[str, Any]:
    """The named condition of an object's current generation, or an empty one."""
    status = document.get("status", {})
    if status.get("observedGeneration") != document["metadata"]["generation"]:
        return {}
    return next((c for c in status.get("conditions", []) if c["type"] == kind), {})


def wait_ready(
    get: Callable[[], dict[str, Any]],
    console: Console,
    line: Callable[[dict[str, Any]], str],
    seconds: float,
) -> dict[str, Any]:
    """Poll until Ready=True, showing `line`; a Stalled object or the deadline is an error."""
    deadline = time.monotonic() + seconds
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        while True:
            document = get()
            live.update(Text("  " + line(document)))
            if condition(document, "Ready").get("status") == "True":
                return document
            stalled = condition(document, "Stalled")
            if stalled.get("status") == "True":
                raise DemoError(f"{stalled['reason']}: {stalled['message']}")
            if time.monotonic() > deadline:
                ready = condition(document, "Ready")
                raise DemoError(f"not ready in {seconds:.0f} s: {ready.get('message', ready)}")
            time.sleep(0.25)


def install(cluster: Cluster) -> None:
    """Install or upgrade the chart, with the images that were just built."""
    images = [f"--set=images.{name}.tag=dev" for name in ("operator", "builder", "runtime")]
    chart = str(ROOT / "helm" / "pitcrew")
    cluster.helm(
        *("upgrade", "--install", "pitcrew", chart, "--namespace", "pitcrew-system"),
        *("--create-namespace", "--wait", "--timeout", "120s", *images),
    )


def engine_line(document: dict[str, Any]) -> str:
    """One line on the state of an LLMEngine."""
    status = document.get("status", {})
    ready = condition(document, "Ready")
    if ready.get("status") == "True":
        engine = status["engine"]
        return f"Ready  {engine['tag']}  id {engine['id'][:12]}  {engine['sizeBytes']:,} bytes"
    return f"{ready.get('reason', 'Pending')}  {status.get('progress', '')}"


def deployment_line(document: dict[str, Any]) -> str:
    """One line on the state of an LLMDeployment."""
    status = document.get("status", {})
    ready = condition(document, "Ready")
    count = f"{status.get('readyReplicas', 0)}/{document['spec'].get('replicas', 1)} replicas"
    return f"{ready.get('reason', 'Pending')}  {count}  {status.get('url', '')}"


@contextmanager
def service_url(service: str) -> Iterator[str]:
    """The Service's cluster address, reachable from here for as long as the block runs."""
    command = [*DEVCLUSTER, "forward", f"{NAMESPACE}/{service}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if not address:
            raise DemoError(f"`{' '.join(command)}` ended early")
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait()


def chat(url: str, timeline: Timeline) -> str:
    """Send one chat request with the official client and print the answer as it streams."""
    client = OpenAI(base_url=f"{url}/v1", api_key="unused", timeout=60)
    stream = client.chat.completions.create(
        model=NAME,
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=96,
        temperature=0.7,
        seed=7,
        stream=True,
    )
    answer = ""
    for chunk in stream:
        text = chunk.choices[0].delta.content if chunk.choices else None
        if not text:
            continue
        if timeline.first_token is None:
            timeline.first_token = time.monotonic() - timeline.started
        answer += text
        timeline.console.print(text, end="", style="green", markup=False, highlight=False)
    timeline.console.print()
    if not answer:
        raise DemoError("the server streamed no text; see `kubectl logs service/tiny-kjv`")
    return answer


def run(timeline: Timeline) -> None:
    """All stages in order; raises DemoError where one cannot go on."""
    console = timeline.console
    with timeline.stage("Kubernetes (a cluster of its own; nothing on this machine changes)"):
        _show([*DEVCLUSTER, "up"])
    cluster = Cluster.of_devcluster()
    with timeline.stage("Container images"):
        _show([*DEVCLUSTER, "build"])
    with timeline.stage("Operator (Helm chart)"):
        install(cluster)
        _show([*DEVCLUSTER, "volume", "models", str(SAMPLES / "models")])
    with timeline.stage("LLMEngine: checkpoint to engine"):
        for manifest in ("llmengine.yaml", "llmdeployment.yaml"):
            console.print(f"  {cluster.kubectl('apply', '-f', str(SAMPLES / manifest)).strip()}")
        wait_ready(lambda: cluster.get("llmengine", NAME), console, engine_line, 300)
    with timeline.stage("LLMDeployment: engine to warm replicas"):
        wait_ready(lambda: cluster.get("llmdeployment", NAME), console, deployment_line, 300)
    with timeline.stage("Chat through the Service, with the openai client"):
        console.print(Panel(QUESTION, title="user", border_style="cyan"))
        with service_url(NAME) as url:
            chat(url, timeline)
    console.print()
    resources = cluster.kubectl("-n", NAMESPACE, "get", "llmengines,llmdeployments")
    console.print(resources, highlight=False, soft_wrap=True)
    summary(cluster, timeline)


def summary(cluster: Cluster, timeline: Timeline) -> None:
    """What took how long, how to look around and how to tear down."""
    table = Table(title="Seconds by stage", title_justify="left")
    table.add_column("stage")
    table.add_column("s", justify="right")
    for name, seconds in timeline.seconds.items():
        table.add_row(name, f"{seconds:.1f}")
    table.add_row("[bold]until the first token", f"[bold]{timeline.first_token or 0:.1f}")
    timeline.console.print(table)
    timeline.console.print(
        "[bold]Look around[/]\n"
        f"  export KUBECONFIG={cluster.kubeconfig} PATH={cluster.tools}:$PATH\n"
        "  kubectl get llme,llmd,pods\n"
        f"  kubectl describe llmengine {NAME}\n"
        f"  kubectl port-forward svc/{NAME} 8000:80   # then any OpenAI client on :8000/v1\n"
        "[bold]Tear down[/]\n"
        "  make demo-down",
        highlight=False,
        soft_wrap=True,
    )


def main() -> int:
    """Run the demo; 0 when text was streamed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--timings", type=Path, help="write the stages' seconds to this JSON file")
    args = parser.parse_args()
    timeline = Timeline(Console())
    try:
        run(timeline)
    except DemoError as error:
        timeline.console.print(f"\n[bold red]The demo stopped:[/] {error}", highlight=False)
        return 1
    except KeyboardInterrupt:
        timeline.console.print("\nInterrupted; `make demo` goes on where this stopped.")
        return 130
    if args.timings:
        args.timings.write_text(json.dumps(timeline.document(), indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
