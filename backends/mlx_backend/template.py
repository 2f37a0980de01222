"""Conversations through a model's chat template."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from jinja2 import TemplateError
from mlx_vlm.prompt_utils import apply_chat_template

from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import Tool
from backends.mlx_backend.template_variables import Variable
from backends.mlx_backend.tool_format import as_openai, renders_tools, with_tools_in_text

Messages = Sequence[Mapping[str, Any]]

NO_VARIABLES: Mapping[str, Variable] = {}


class ChatTemplate:
    """A model's template; where it knows no tools, they are told in the text."""

    def __init__(self, processor: Any, config: Any) -> None:
        self._processor = processor
        self._config = config

    def __repr__(self) -> str:
        return f"<ChatTemplate knows_tools={self.knows_tools}>"

    @cached_property
    def knows_tools(self) -> bool:
        """Whether it shows tools, calls and their results in the format that is read here."""
        return renders_tools(lambda messages, tools: self._apply(messages, 0, tools=tools))

    def render(
        self,
        messages: Messages,
        tools: Sequence[Tool],
        images: int,
        variables: Mapping[str, Variable] = NO_VARIABLES,
    ) -> str:
        """Return the prompt of a conversation with so many images.

        `variables` are told the template besides; those that it does not know do no harm. Unless
        they say otherwise, a model that can think does not: mlx-vlm tells its template so.
        ChatError for a conversation that the template refuses.
        """
        speaks = any(message["role"] == "tool" or "tool_calls" in message for message in messages)
        told: dict[str, Any] = dict(variables)
        if tools and self.knows_tools:
            told["tools"] = as_openai(tools)
        elif tools or (speaks and not self.knows_tools):
            messages = with_tools_in_text(messages, tools)
        try:
            return self._apply(messages, images, **told)
        except TemplateError as error:
            if type(error) is not TemplateError:
                raise  # a defect of the template
            # What a template's own `raise_exception` raises, for conversations it is not made for.
            text = f"the model's chat template refuses the messages: {error}"
            raise ChatError("invalid_request", text, "messages") from error

    def _apply(self, messages: Messages, images: int, **told: Any) -> str:
        return str(
            apply_chat_template(
                self._processor, self._config, list(messages), num_images=images, **told
            )
        )
