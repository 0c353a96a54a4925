"""What `recsys recommend` prints is what the service said, whatever that is."""

from __future__ import annotations

import pytest

from services.cli.recommend import print_reply
from services.schemas import Fallback, FallbackReason, Recommendation, RecommendReply


@pytest.mark.parametrize(
    "text", ["Film [uncut] (2001)", "[/x]", "[bold]", "a\\", ":cat:", "[red]\\"]
)
def test_text_of_the_service_is_printed_as_it_stands(
    capsys: pytest.CaptureFixture[str], text: str
) -> None:
    reply = RecommendReply(
        items=[Recommendation(item_id=f"1 {text}", title=f"2 {text}", score=1.0, space="ials")],
        model=f"3 {text}",
        version="v0001",
        fallback=Fallback(reason=FallbackReason.UNKNOWN_USER, detail=f"4 {text}"),
        unknown_items=[f"5 {text}"],
    )
    print_reply(reply, title=f"6 {text}")
    printed = capsys.readouterr().out
    assert all(f"{place} {text}" in printed for place in range(1, 7))
