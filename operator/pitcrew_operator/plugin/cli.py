"""The words of `kubectl pitcrew`."""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pitcrew_operator.argocd import rules
from pitcrew_operator.kinds import DEPLOYMENT, ENGINE, EVENT, JOB, POD, Raw
from pitcrew_operator.manifests.names import DEPLOYMENT_LABEL
from pitcrew_operator.plugin import explain, logs, rollback, status
from pitcrew_operator.plugin.kubectl import Kubectl, PluginError
from pitcrew_operator.plugin.subject import Subject, named, of_kind
from pitcrew_operator.views import JOB_NAME_LABEL, deployment_of, engine_of, job_of

EXIT_FAILURE: Final = 1
_LOG_LINES: Final = 20


def parser() -> argparse.ArgumentParser:
    """The command line."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("-n", "--namespace", help="default: that of the current context")
    shared.add_argument("--context", help="a context of the kubeconfig")
    shared.add_argument("--kubeconfig", help="path of the kubeconfig")
    root = argparse.ArgumentParser(prog="kubectl pitcrew", description="LLM engines at a glance")
    commands = root.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, call: Callable[..., int], text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text, parents=[shared])
        one.set_defaults(call=call)
        return one

    name = "llmengine/NAME, llmdeployment/NAME, or NAME where that is one thing"
    one = command("status", _status, "how engines and deployments stand")
    one.add_argument("subject", nargs="?", help=name)
    one.add_argument("-A", "--all-namespaces", action="store_true")
    one = command("explain", _explain, "why one of them is as it is, and what to do")
    one.add_argument("subject", help=name)
    one = command("plan", _plan, "what the operator would do next, without doing it")
    one.add_argument("subject", nargs="?", help=name)
    one.add_argument(
        "-f", "--filename", help="a manifest that is not applied yet; - is standard input"
    )
    one = command("rollback", _rollback, "serve an earlier version of the engine again")
    one.add_argument("subject", metavar="LLMDEPLOYMENT")
    goal = one.add_mutually_exclusive_group()
    goal.add_argument(
        "--to", metavar="ID", help="a version's id, or its first digits; default: the one before"
    )
    goal.add_argument(
        "--undo", action="store_true", help="follow the engine's newest version again"
    )
    one.add_argument("--force", action="store_true", help="also where GitOps will take it back")
    text = "print Pitcrew's health rules as Argo CD's ConfigMap; nothing is asked or written"
    command("argocd", _argocd, text)
    one = command("logs", _logs, "logs of an engine's build, or of a deployment's pods")
    one.add_argument("subject", help=name)
    one.add_argument("-f", "--follow", action="store_true")
    one.add_argument(
        "--tail", type=int, default=100, metavar="LINES", help="of each container; -1: all"
    )
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; an expected error is one message and exit code 1."""
    options = parser().parse_args(argv)
    try:
        return int(options.call(_kubectl(options), options))
    except PluginError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILURE


def _kubectl(options: argparse.Namespace, *, everywhere: bool = False) -> Kubectl:
    chosen = {"--context": options.context, "--kubeconfig": options.kubeconfig}
    where: tuple[str, ...] = ("--all-namespaces",) if everywhere else ()
    if options.namespace and not everywhere:
        where = ("--namespace", options.namespace)
    return Kubectl(tuple(f"{key}={value}" for key, value in chosen.items() if value), where)


def _status(kubectl: Kubectl, options: argparse.Namespace) -> int:
    now = datetime.now(UTC)
    if options.subject:
        return _print(status.detail(named(options.subject, kubectl), now))
    if options.all_namespaces:
        kubectl = _kubectl(options, everywhere=True)
    return _print(status.overview(kubectl.list(ENGINE), kubectl.list(DEPLOYMENT), now))


def _explain(kubectl: Kubectl, options: argparse.Namespace) -> int:
    subject = named(options.subject, kubectl)
    return _print(explain.explain(subject, _evidence(subject, kubectl), datetime.now(UTC)))


def _plan(kubectl: Kubectl, options: argparse.Namespace) -> int:
    # Imported late: it brings the operator's whole planning, which the other commands do without.
    from pitcrew_operator.plugin.dry_run import plan

    if bool(options.subject) == bool(options.filename):
        raise PluginError("say either what to plan for or, with -f, a manifest")
    subjects = (
        _from_file(options.filename, kubectl)
        if options.filename
        else [named(options.subject, kubectl)]
    )
    everywhere = _kubectl(options, everywhere=True)
    for subject in subjects:
        # A manifest names its namespace itself, which need not be the context's.
        there = replace(kubectl, namespace=("--namespace", subject.namespace))
        _print(asyncio.run(plan(subject, there, everywhere)))
    return 0


def _from_file(name: str, kubectl: Kubectl) -> list[Subject]:
    """What the API server would make of the manifest: defaults, admission and all."""
    text = sys.stdin.read() if name == "-" else _text(Path(name))
    answer = kubectl.json("apply", "--dry-run=server", "--filename", "-", stdin=text)
    items: list[Raw] = answer["items"] if answer.get("kind") == "List" else [answer]
    kinds = {kind.kind: kind for kind in (ENGINE, DEPLOYMENT)}
    subjects = [Subject(kinds[raw["kind"]], raw) for raw in items if raw["kind"] in kinds]
    if not subjects:
        raise PluginError(f"{name} holds no LLMEngine and no LLMDeployment")
    return subjects


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise PluginError(f"cannot read {path}: {error.strerror}") from error


def _rollback(kubectl: Kubectl, options: argparse.Namespace) -> int:
    subject = of_kind(options.subject, DEPLOYMENT, kubectl)
    owner = deployment_of(subject.raw)
    keeper = rollback.keeper(subject.raw)
    if keeper and not options.force:
        raise PluginError(
            f"{subject} is kept by {keeper}, which would take the change back: set "
            "spec.engineRef.version in its repository, or say --force"
        )
    if options.undo:
        found = rollback.undo(owner)
    else:
        engine = of_kind(owner.spec.engine_ref.name, ENGINE, kubectl)
        found = rollback.rollback(owner, engine_of(engine.raw), options.to)
    words = ("patch", f"{DEPLOYMENT.plural}.{DEPLOYMENT.group}", subject.name, "--type=merge")
    kubectl.run(*words, "--patch", json.dumps(found.patch), "--field-manager=kubectl-pitcrew")
    return _print([found.told])


def _argocd(_: Kubectl, __: argparse.Namespace) -> int:
    return _print(rules.manifest())


def _logs(kubectl: Kubectl, options: argparse.Namespace) -> int:
    subject = named(options.subject, kubectl)
    jobs = _jobs(subject, kubectl)
    return kubectl.watch(*logs.arguments(subject, jobs, follow=options.follow, tail=options.tail))


def _evidence(subject: Subject, kubectl: Kubectl) -> explain.Evidence:
    jobs = _jobs(subject, kubectl)
    pods = _pods(subject, jobs, kubectl)
    about = {raw["metadata"]["uid"] for raw in (subject.raw, *jobs, *pods)}
    events = [e for e in kubectl.list(EVENT) if (e.get("regarding") or {}).get("uid") in about]
    failed = explain.failing(pods)
    engine = None
    if subject.kind is DEPLOYMENT:
        engine = kubectl.find(ENGINE, subject.raw["spec"]["engineRef"]["name"])
    return explain.Evidence(jobs, pods, events, _last_words(failed, kubectl), engine)


def _jobs(subject: Subject, kubectl: Kubectl) -> list[Raw]:
    """Those that the engine owns, alone or with others."""
    if subject.kind is not ENGINE:
        return []
    uid = subject.raw["metadata"]["uid"]
    return [raw for raw in kubectl.list(JOB, JOB.selector) if job_of(raw).meta.is_owned_by(uid)]


def _pods(subject: Subject, jobs: Sequence[Raw], kubectl: Kubectl) -> list[Raw]:
    if subject.kind is not ENGINE:
        return kubectl.list(POD, f"{DEPLOYMENT_LABEL}={subject.name}")
    names = {job["metadata"]["name"] for job in jobs}
    labelled = (
        (raw, raw["metadata"].get("labels") or {}) for raw in kubectl.list(POD, POD.selector)
    )
    return [raw for raw, labels in labelled if labels.get(JOB_NAME_LABEL) in names]


def _last_words(pod: Raw | None, kubectl: Kubectl) -> str:
    if pod is None:
        return ""
    words = ("logs", pod["metadata"]["name"], f"--tail={_LOG_LINES}", "--all-containers")
    try:
        return kubectl.run(*words)
    except PluginError as error:
        return f"(no log: {error})"


def _print(lines: Sequence[str]) -> int:
    print("\n".join(lines))
    return 0
