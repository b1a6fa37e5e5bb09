"""What an importer found in the foreign file: the dataset keeps it, and `check` repeats it."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from offrl.data.episode_checks import Found

_FLAGS = "Look at these rows of the file; import it with --split jumps for the other reading."
# code: severity, and what a person would advise.
IMPORT_RULES: dict[str, tuple[Literal["error", "warning", "note"], str]] = {
    "timeout-inside-episode": ("warning", _FLAGS),
    "end-inside-log": ("warning", _FLAGS),
    "jump-without-end": ("warning", _FLAGS),
    "time-limit-as-end": (
        "warning",
        "If that is a time limit, import the file with --time-limit: values then look beyond it.",
    ),
}


def findings_of_import(metadata: Mapping[str, Any]) -> Iterator[Found]:
    """Yield the contradictions that an importer wrote into the metadata, those it knows."""
    own = metadata.get("offrl")
    source = own.get("import") if isinstance(own, Mapping) else None
    findings = source.get("findings") if isinstance(source, Mapping) else None
    for finding in findings if isinstance(findings, list) else ():
        code = finding.get("code") if isinstance(finding, Mapping) else None
        if code not in IMPORT_RULES:
            continue
        count, places = finding.get("count"), finding.get("places")
        places = [str(place) for place in places] if isinstance(places, list) else []
        count = count if isinstance(count, int) else len(places)
        message = f"the imported file: {finding.get('message')}"
        first, *others = places or [""]
        yield Found(code, "", message, first, max(1, count - len(others)))
        for place in others:
            yield Found(code, "", message, place, 1)
