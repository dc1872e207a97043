"""``load(spec)``: one door to built-in, torchvision's and the user's models."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from compress_models.catalog import BUILT_IN, names
from compress_models.errors import SpecError, nearest
from compress_models.spec import arguments, quote, resolve

# Without these two, the networks warn about a coming default and return a tuple while training.
_ONE_OUTPUT = {"aux_logits": False, "init_weights": True}
_TORCHVISION_OPTIONS = {"googlenet": _ONE_OUTPUT, "inception_v3": _ONE_OUTPUT}


def load(
    spec: str, options: Mapping[str, Any] | None = None, *, defaults: Mapping[str, Any] | None = None
) -> nn.Module:
    """Build the model that a spec names, with fresh weights drawn from torch's global generator.

    Args:
        spec: a built-in name (see ``names``), ``torchvision:NAME``, ``path/to/file.py:Factory`` or
            ``package.module:Factory``; a factory is a class or function that returns a ``torch.nn.Module``.
        options: keyword arguments of the factory; one that it does not have is an error.
        defaults: facts of the data (``num_classes``, ``in_channels``, ``input_size``), each passed only to a
            factory that has a parameter of that name; an option of the same name wins.

    Raises:
        SpecError: nothing is there, an option is wrong, the factory fails or returns something else.

    >>> load("lenet5", {"num_classes": 4}).fc2.out_features
    4
    """
    asked = f"model {spec}"
    factory = _factory(spec)
    if isinstance(factory, nn.Module):
        raise SpecError(f"{asked}: is a module already built; name its class or a function that builds it")
    given = arguments(asked, factory, dict(options or {}), dict(defaults or {}))
    try:
        model = factory(**given)
    except SpecError as error:
        raise SpecError(f"{asked}: {error}") from error
    except Exception as error:
        raise SpecError(f"{asked}: could not be built: {quote(error)}") from error
    if not isinstance(model, nn.Module):
        raise SpecError(f"{asked}: returned a {type(model).__name__}; it must return a torch.nn.Module")
    return model


def input_shape(spec: str, options: Mapping[str, Any] | None = None) -> tuple[int, int, int] | None:
    """The images a network is made for: (C, H, W); None for the user's own, which do not say.

    Args:
        spec: as for ``load``.
        options: as for ``load``; in_channels and input_size of a built-in network count, and the base of one that
            is made from another.

    >>> input_shape("lenet5"), input_shape("lenet5", {"in_channels": 3}), input_shape("net.py:Net")
    ((1, 28, 28), (3, 28, 28), None)
    """
    given = dict(options or {})
    if spec in BUILT_IN:
        if "base" in given:
            return input_shape(given.pop("base"), given)
        channels, side, _ = BUILT_IN[spec].input_shape
        channels, side = given.get("in_channels", channels), given.get("input_size", side)
        return channels, side, side
    if spec.startswith("torchvision:"):
        from torchvision import models

        # several weights are published for some networks; the smallest images are what the network was designed for
        published = models.get_model_weights(spec.removeprefix("torchvision:"))
        side = min(weights.transforms.keywords["crop_size"] for weights in published)
        return 3, side, side
    return None


def _factory(spec: str) -> Callable[..., Any]:
    if spec in BUILT_IN:
        return resolve(BUILT_IN[spec].factory)
    if spec.startswith("torchvision:"):
        return _torchvision(spec.removeprefix("torchvision:"))
    return resolve(spec, what="model", known=names())


def _torchvision(name: str) -> Callable[..., Any]:
    from torchvision import models  # takes a second to import, and only this branch needs it

    known = models.list_models(module=models)
    if name not in known:
        raise SpecError(f"model torchvision:{name}: torchvision has no such classifier; {nearest(name, known)}")
    builder = models.get_model_builder(name)

    def build(*, num_classes: int = 1000, **options: Any) -> Any:
        return builder(num_classes=num_classes, **_TORCHVISION_OPTIONS.get(name, {}) | options)

    return build
