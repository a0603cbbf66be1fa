"""Prompts: what is read, what is refused, and that what proves was never calibrated on."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pitcrew_builder.errors import InvalidSpec, PromptsUnreachable
from pitcrew_builder.prompts.choice import choose, warnings
from pitcrew_builder.prompts.source import PromptFile, read
from pitcrew_builder.spec import Prompts


def _file(path: Path, *lines: object) -> Prompts:
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return Prompts(path=str(path))


def _texts(path: Path, count: int, word: str = "text") -> PromptFile:
    return read(_file(path, *({"text": f"{word} {n}"} for n in range(count))), "field")


def test_the_three_kinds_of_lines_are_read(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "who"}]}
    given = _file(tmp_path / "p", {"text": "a"}, {"prompt": "b", "completion": "c"}, chat)
    found = read(given, "field").prompts
    assert {prompt.text for prompt in found} == {"a", "bc", ""}
    assert [turn.content for prompt in found for turn in prompt.messages] == ["who"]


def test_order_and_repetition_do_not_matter(tmp_path: Path) -> None:
    first = read(_file(tmp_path / "a", {"text": "x"}, {"text": "y"}, {"text": "x"}), "field")
    second = read(_file(tmp_path / "b", {"text": "y"}, {"text": "x"}), "field")
    assert first.prompts == second.prompts
    assert first.repeated == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "holds no prompt"),
        ('{"text": "a"}\nnonsense', "line 2"),
        ('{"text": "  "}', "none of text, prompt and messages"),
        ("[1]", "no JSON object"),
        ('{"text": 7}', "line 1"),
        ('{"messages": [{"role": "user"}]}', "line 1"),
    ],
)
def test_bad_files_are_refused_by_line(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "p").write_text(content)
    with pytest.raises(InvalidSpec, match=told):
        read(Prompts(path=str(tmp_path / "p")), "proof.prompts")


def test_a_missing_file_is_named_with_its_field(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=r"proof\.prompts\.path: .*none cannot be read"):
        read(Prompts(path=str(tmp_path / "none")), "proof.prompts")


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        code = {"/ok": 200, "/busy": 503}.get(self.path, 404)
        self.send_response(code)
        self.end_headers()
        self.wfile.write(b'{"text": "from afar"}' if code == 200 else b"")

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_prompts_come_from_a_url(address: str) -> None:
    assert [p.text for p in read(Prompts(url=f"{address}/ok"), "field").prompts] == ["from afar"]


def test_a_busy_server_is_worth_a_retry_and_a_wrong_address_is_not(address: str) -> None:
    with pytest.raises(PromptsUnreachable, match="503"):
        read(Prompts(url=f"{address}/busy"), "field")
    with pytest.raises(InvalidSpec, match="404"):
        read(Prompts(url=f"{address}/none"), "field")


def test_one_file_serves_both_ends_without_overlap(tmp_path: Path) -> None:
    chosen = choose(_texts(tmp_path / "p", 50), None, 128, 64)
    assert (len(chosen.calibration), len(chosen.proof)) == (40, 10)
    assert not set(chosen.calibration) & set(chosen.proof)


def test_what_is_held_out_is_not_calibrated_on(tmp_path: Path) -> None:
    both = _texts(tmp_path / "p", 20)
    chosen = choose(both, _texts(tmp_path / "q", 5), 128, 64)
    assert (len(chosen.calibration), len(chosen.proof)) == (15, 5)
    assert not set(chosen.calibration) & set(chosen.proof)


def test_too_few_prompts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="one prompt"):
        choose(_texts(tmp_path / "p", 1), None, 128, 64)
    with pytest.raises(InvalidSpec, match="every prompt"):
        choose(_texts(tmp_path / "p", 3), _texts(tmp_path / "q", 3), 128, 64)


def test_generic_short_and_repeated_text_is_told(tmp_path: Path) -> None:
    lines = [{"text": "again"}] * 9 + [{"text": "other"}]
    told = warnings(read(_file(tmp_path / "p", *lines), "field"), [[1, 2]], [[1, 3, 4, 5]])
    assert ["generic" in told[0], "short" in told[1], "repeat" in told[2]] == [True] * 3
    assert "25%" in told[0]


def test_own_text_gives_no_warning(tmp_path: Path) -> None:
    own = [[token % 50 for token in range(5000)]]
    assert warnings(_texts(tmp_path / "p", 10), own, [[3, 4, 5]]) == ()
