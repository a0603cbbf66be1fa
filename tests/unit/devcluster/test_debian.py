from pathlib import Path

from devcluster.debian import Mirror, find_mirror, merge_usr, read_sources

DEB822 = """\
Types: deb
# http://snapshot.example/archive/debian
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
"""
ONE_LINE = "deb [signed-by=/k.gpg] https://other.example/debian/ bookworm main\n"
FOREIGN = (
    "deb https://vendor.example/apt stable main\ndeb http://v.example/debian-security x main\n"
)


def test_the_mirror_is_the_one_apt_uses() -> None:
    assert find_mirror({}, [FOREIGN, DEB822]) == "http://mirror.example/debian"
    assert find_mirror({}, [ONE_LINE, DEB822]) == "https://other.example/debian"


def test_the_environment_wins() -> None:
    env = {"PITCREW_DEBIAN_MIRROR": "http://chosen.example/debian/"}
    assert find_mirror(env, [DEB822]) == "http://chosen.example/debian"


def test_no_debian_archive_is_none() -> None:
    assert find_mirror({}, [FOREIGN, "# deb http://off.example/debian x main\n"]) is None
    assert find_mirror({}, []) is None


def test_sources_are_read_from_both_places(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(ONE_LINE)
    (tmp_path / "sources.list.d" / "debian.sources").write_text(DEB822)
    assert read_sources(tmp_path) == [ONE_LINE, DEB822]
    assert read_sources(tmp_path / "absent") == []


def test_sources_name_the_suite_and_its_security_updates() -> None:
    lines = Mirror("http://mirror.example/debian", "arm64").sources().splitlines()
    assert [line.split("] ")[1] for line in lines] == [
        "http://mirror.example/debian bookworm main",
        "http://mirror.example/debian-security bookworm-security main",
    ]
    assert all("arch=arm64" in line and "signed-by=" in line for line in lines)


def test_merged_usr_links_lead_inside_the_tree(tmp_path: Path) -> None:
    merge_usr(tmp_path)
    merge_usr(tmp_path)
    (tmp_path / "bin" / "sh").touch()
    assert (tmp_path / "usr" / "bin" / "sh").exists()
