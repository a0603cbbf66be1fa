"""What `RUN pip install` needs of this machine behind a proxy or a mirror, for the run only.

Certificates and pip settings are mounted into the step; nothing of them stays in an image.
"""

import configparser
import io
import shutil
from collections.abc import Mapping
from pathlib import Path

INSIDE = "/etc/ssl/certs/ca-certificates.crt"
_BUNDLES = (INSIDE, "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
_KEPT = ("index-url", "extra-index-url", "trusted-host")


def mounts(env: Mapping[str, str], pip_conf: str, directory: Path) -> list[str]:
    """The volumes for RUN steps, FROM:TO:ro, their FROMs made in `directory`.

    `pip_conf` is the text of this machine's own pip configuration.
    """
    bundle = find_bundle(env)
    settings = directory / "pip.conf"
    settings.write_text(pip_settings(env, pip_conf, INSIDE if bundle else None))
    result = [f"{settings}:/etc/pip.conf:ro"]
    if bundle:
        # A copy: the file may be a link that leads nowhere inside.
        shutil.copyfile(bundle, directory / "ca.crt")
        result.append(f"{directory / 'ca.crt'}:{INSIDE}:ro")
    return result


def find_bundle(env: Mapping[str, str]) -> Path | None:
    """The certificates this machine trusts, as one file."""
    named = (env.get("SSL_CERT_FILE"), env.get("REQUESTS_CA_BUNDLE"), *_BUNDLES)
    return next((Path(name) for name in named if name and Path(name).is_file()), None)


def pip_settings(env: Mapping[str, str], existing: str, bundle: str | None) -> str:
    """A pip.conf with the index this machine's own pip uses, and the certificates at `bundle`.

    As with pip itself, PIP_INDEX_URL and its like win over the file.
    """
    old = configparser.RawConfigParser()
    old.read_string(existing)
    section = dict(old["global"]) if old.has_section("global") else {}
    kept = {name: section[name] for name in _KEPT if name in section}
    for name in _KEPT:
        if value := env.get(f"PIP_{name.replace('-', '_').upper()}"):
            kept[name] = value
    new = configparser.RawConfigParser()
    new["global"] = kept | ({"cert": bundle} if bundle else {})
    out = io.StringIO()
    new.write(out)
    return out.getvalue()
