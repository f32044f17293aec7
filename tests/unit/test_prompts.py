import pytest

from data.errors import UserError
from data.media.reference import Media
from data.sources.conversation import with_system_prompt
from train.answering.generation import media_in
from train.jobs.generate import generate_answers, place_media
from train.results.loading import Loading

IMAGE, VIDEO = {"type": "image"}, {"type": "video"}


def test_placeholders_say_where_media_stand():
    clip, picture = Media("video", "a.mp4"), Media("image", "b.png")
    text = {"type": "text", "text": "Describe"}
    assert place_media(["Describe"], []) == [[text]]
    assert place_media(["Describe", "Describe"], [picture, clip]) == [[IMAGE, VIDEO, text], [text]]
    assert place_media(["Describe", "<video>\nDescribe"], [clip]) == [[text], [VIDEO, text]]
    with pytest.raises(UserError, match="--prompt names image but the media given are video"):
        place_media(["<image> Describe"], [clip])
    with pytest.raises(UserError, match="--prompt names video, video but the media given are video"):
        place_media(["<video>", "<video>"], [clip])
    with pytest.raises(UserError, match="the media given are none"):
        place_media(["<video>"], [])


def test_system_prompt_and_media_of_a_prefix():
    messages = [
        {"role": "user", "content": [VIDEO, {"type": "text", "text": "a"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "b"}]},
        {"role": "user", "content": [IMAGE, IMAGE, {"type": "text", "text": "c"}]},
    ]
    assert with_system_prompt(messages, None) == messages
    behind = with_system_prompt(messages, "Be brief.")
    assert behind == [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, *messages]
    assert with_system_prompt(behind, "Be long.") == behind
    media = (Media("video", "v"), Media("image", "i"), Media("image", "j"))
    assert [len(media_in(messages[:n], media)) for n in range(4)] == [0, 1, 1, 3]


@pytest.mark.parametrize(
    ("prompts", "system", "option"), [(["a", "b\udcff"], None, "--prompt"), (["a"], "\ud83d", "--system-prompt")]
)
def test_a_prompt_that_is_no_text_is_told_before_anything_is_loaded(prompts, system, option):
    with pytest.raises(UserError, match=f"^{option}: the text holds half of a character"):
        generate_answers("no such model", prompts, [], Loading(), 8, system)
