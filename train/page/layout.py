"""The page itself: gradio's blocks, and what is mounted beside the endpoint's routes."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from html import escape
from typing import Any, cast

import gradio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from train.page.answers import Answers, Shown
from train.page.doors import Doors
from train.page.dropping import DROP, SEND, STYLE
from train.page.examples import Example
from train.page.talk import Talk
from train.serving.endpoint import Endpoint
from train.serving.guard import PAGE, UPLOADS
from train.talking.sampling import MAX_TEMPERATURE

LEAST_HEIGHT, MOST_HEIGHT = 220, 460  # pixels of a side
FONTS = ("system-ui", "sans-serif")  # those of the machine: none is fetched
MONO_FONTS = ("ui-monospace", "monospace")
COLUMN = 320  # pixels: a column that would be narrower stands below the others


def add_page(app: Starlette, endpoint: Endpoint, examples: Sequence[Example] = ()) -> None:
    """Add the page to the endpoint's app, before it is started."""
    routes = [
        Route("/", to_page, methods=["GET"]),
        Route("/favicon.ico", no_picture, methods=["GET"]),  # browsers ask for one
        Route(UPLOADS[1], endpoint.upload, methods=["POST"]),
    ]
    app.router.routes.extend(routes)
    app.add_middleware(Doors)
    page = Page(Answers(endpoint), examples)
    gradio.mount_gradio_app(
        cast(Any, app),
        page.blocks(),
        PAGE,
        auth=None,  # the guard asks for the token
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=gradio.themes.Default(font=FONTS, font_mono=MONO_FONTS),
        css=STYLE,
    )


async def to_page(request: Request) -> Response:
    """Lead to the page."""
    return RedirectResponse(f"{PAGE}/")


async def no_picture(request: Request) -> Response:
    """Answer that the page has no picture of its own."""
    return Response(status_code=204)


class Page:
    """The page's parts, and what they do when they are used."""

    def __init__(self, answers: Answers, examples: Sequence[Example]):
        self.answers, self.examples = answers, examples

    def blocks(self) -> gradio.Blocks:
        """Return the page."""
        name = self.answers.reader.name
        with gradio.Blocks(title=name, analytics_enabled=False, fill_width=True) as blocks:
            self.talk = gradio.State(Talk())
            gradio.HTML(f"<h1>{escape(name)}</h1>")
            with gradio.Row():
                with gradio.Column(scale=2, min_width=COLUMN):
                    self._add_files()
                with gradio.Column(scale=3, min_width=COLUMN):
                    self._add_conversation(name)
            self._connect()
        blocks.queue(max_size=self.answers.service.max_requests, api_open=False, default_concurrency_limit=None)
        return blocks

    def _add_files(self) -> None:
        max_file = self.answers.files.max_file
        self.drop = gradio.HTML(html_template=DROP, js_on_load=SEND, elem_id="drop", max_file=max_file)
        self.frames = gradio.HTML(elem_id="frames")
        if self.examples:
            gradio.HTML("Examples", elem_id="examples")
        self.picks = [
            (gradio.Button(f"{example.name}: {example.text}", size="sm"), example) for example in self.examples
        ]

    def _add_conversation(self, name: str) -> None:
        with gradio.Row():
            self.sides = [self._side(name, "own", True)]
            if self.answers.has_adapter:
                self.sides.append(self._side("without the adapter", "base", False))
        self.told = gradio.HTML(elem_id="told")
        self.text = gradio.Textbox(
            label="Question",
            placeholder="Ask about what is shown",
            lines=1,
            max_lines=6,
            submit_btn="Ask",
            elem_id="question",
        )
        with gradio.Row():
            self.stop = gradio.Button("Stop", size="sm", min_width=80)
            self.reset = gradio.Button("New conversation", size="sm", min_width=80)
        self.compare = gradio.Checkbox(
            label="Ask the base, too: the same model without its adapter", visible=self.answers.has_adapter
        )
        longest = self.answers.reader.sampling.max_tokens
        with gradio.Accordion("Options", open=False):
            self.temperature = gradio.Slider(
                0, MAX_TEMPERATURE, 0, step=0.1, label="Temperature (0: the likeliest word)"
            )
            self.longest = gradio.Slider(1, longest, longest, step=1, label="Longest answer, in tokens")

    def _side(self, label: str, who: str, is_visible: bool) -> gradio.Chatbot:
        return gradio.Chatbot(
            label=label,
            elem_id=f"side-{who}",
            height=None,
            min_height=LEAST_HEIGHT,
            max_height=MOST_HEIGHT,
            min_width=COLUMN - 40,
            visible=is_visible,
            render_markdown=False,  # a stranger's model may answer with pictures and links to elsewhere
            latex_delimiters=[],
            allow_tags=False,
            allow_file_downloads=False,
            feedback_options=None,
            buttons=[],
        )

    def _connect(self) -> None:
        page = [self.talk, self.told, self.text, self.frames, *self.sides]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

        async def dropped(talk: Talk, event: gradio.EventData) -> list:
            return self.shown(await self.answers.show(event._data, talk))

        async def asked(*given: Any) -> AsyncGenerator[list, None]:
            async for shown in self.answers.ask(*given):
                yield self.shown(shown)

        def compared(is_compared: bool) -> Any:
            return gradio.update(visible=bool(is_compared))

        self.drop.dropped(dropped, [self.talk], page, **quiet)
        asking = self.text.submit(
            asked, [self.text, self.talk, self.compare, self.temperature, self.longest], page, **quiet
        )
        self.stop.click(None, cancels=[asking])
        for begins_anew in (self.reset.click, *(side.clear for side in self.sides)):
            begins_anew(lambda: self.shown(Shown(Talk(), frames="")), None, page, cancels=[asking], **quiet)
        if len(self.sides) > 1:
            self.compare.change(compared, [self.compare], [self.sides[1]], **quiet)
        for button, example in self.picks:
            button.click(self._picked(example), None, page, cancels=[asking], **quiet)

    def _picked(self, example: Example) -> Any:
        async def picked() -> list:
            return self.shown(await self.answers.show_example(example))

        return picked

    def shown(self, shown: Shown) -> list:
        """Return the values of the page's parts: the talk, the line about it, the box, the frames, and the sides."""
        role, names = "alert" if shown.is_wrong else "status", self.answers.names(shown.talk)
        lines = f'<p role="{role}">{escape(shown.told)}</p>' if shown.told else ""
        text, frames = (gradio.skip() if value is None else value for value in (shown.text, shown.frames))
        sides = [as_text(shown.talk.bubbles(who, names)) for who in ("own", "base")][: len(self.sides)]
        return [shown.talk, lines, text, frames, *sides]


def as_text(bubbles: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """Return what is to be read as it is: gradio takes it for HTML, also without Markdown."""
    return [{**bubble, "content": escape(bubble["content"], quote=False)} for bubble in bubbles]
