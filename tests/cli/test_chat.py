import io

import pytest

FAST = ("--backend", "numpy", "--context", "128", "-n", "3", "--temperature", "0")


@pytest.fixture
def chat(soberano, tiny, monkeypatch):
    asked = []

    def run(*lines: str, more: tuple[str, ...] = ()):
        from soberano.models.model import Model

        ask = Model.chat_tokens
        monkeypatch.setattr(Model, "chat_tokens", lambda self, m, **kw: asked.append(list(m)) or ask(self, m, **kw))
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return soberano("chat", tiny, *FAST, *more), asked

    return run


def roles(messages):
    return [m["role"] for m in messages]


def test_a_conversation_remembers_until_it_is_told_to_forget(chat):
    answer, asked = chat("hi", "again", "/reset", "new", more=("--system", "be brief"))
    assert answer.status == 0 and answer.err == ""
    assert [roles(m) for m in asked] == [
        ["system", "user"],
        ["system", "user", "assistant", "user"],
        ["system", "user"],
    ]
    assert asked[1][3]["content"] == "again" and asked[0][0]["content"] == "be brief"


def test_commands(chat):
    answer, asked = chat(
        "/retry", "hi", "/retry", "/system be kind", "yes", "/system", "no", "/what", "/help", "/quit", "never"
    )
    assert [roles(m) for m in asked] == [["user"], ["user"], ["system", "user"], ["user"]]
    assert asked[0] == asked[1]
    assert "there is no question yet" in answer.out
    assert "no command is called /what" in answer.out and "/reset" in answer.out


def test_a_conversation_too_long_says_so_and_goes_on(chat):
    answer, asked = chat("word " * 200, "hi")
    assert answer.status == 0 and "/reset starts over" in answer.err
    assert roles(asked[1]) == ["user"] and asked[1][0]["content"] == "hi"


def test_a_long_conversation_slides_if_it_is_told_to(chat):
    answer, asked = chat("first " * 5, "second", "word " * 12, "last", more=("--long-chats", "slide", "--system", "s"))
    assert answer.status == 0 and "of the oldest messages no longer fit and were left out" in answer.err
    assert roles(asked[-1])[0] == "system" and asked[-1][1]["role"] == "user"
    assert asked[-1][-1]["content"] == "last" and len(asked[-1]) < 8


def test_interrupting_stops_the_answer_not_the_chat(chat, monkeypatch):
    from soberano.models.generate import Generation

    step, calls = Generation.step, []

    def interrupted(self):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Generation, "step", interrupted)
    answer, asked = chat("hi", "again")
    assert answer.status == 0 and "(stopped)" in answer.out
    assert roles(asked[1]) == ["user", "assistant", "user"]


def test_the_name_of_a_model_drives_no_terminal(capsys, monkeypatch):
    from types import SimpleNamespace

    from soberano.cli.chat import Chat

    monkeypatch.setattr("sys.stdin", io.StringIO())
    talk = Chat(SimpleNamespace(name="m\x1b[2J\u202e", plan=SimpleNamespace(backend="cpu")), None, None)
    talk.person = True
    assert talk.loop() == 0
    assert capsys.readouterr().out.startswith("m\ufffd[2J\ufffd on cpu")
