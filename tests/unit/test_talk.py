"""Each side of a page's conversation is asked about what it was told itself."""

from train.page.talk import Talk


def texts(messages):
    return [
        (each["role"], each["content"])
        if isinstance(each["content"], str)
        else (each["role"], *(part.get("text") or part["file"]["file_id"] for part in each["content"]))
        for each in messages
    ]


def test_a_model_is_told_of_the_turns_that_it_answered_itself():
    talk = Talk().show("file-1").ask("What?").said("own", "a ").said("own", "square")
    talk = talk.show("file-2").show("file-3").ask("Compare")
    assert texts(talk.messages("own")) == [
        ("user", "file-1", "What?"),
        ("assistant", "a square"),
        ("user", "file-2", "file-3", "Compare"),
    ]
    assert texts(talk.messages("base")) == [("user", "file-1", "file-2", "file-3", "Compare")]
    talk = talk.said("own", "they differ").said("base", "no").ask("Why?")
    assert texts(talk.messages("base"))[1:] == [("assistant", "no"), ("user", "Why?")]


def test_files_are_shown_once_and_named_for_people():
    talk = Talk().show("file-1").ask("What?").said("own", "a square").ask("And now?")
    bubbles = list(talk.bubbles("own", {"file-1": "a.mp4"}))
    assert [each["content"] for each in bubbles] == ["[a.mp4] What?", "a square", "And now?"]
    assert [each["content"] for each in talk.bubbles("base", {})] == ["[a file] What?", "And now?"]
