from __future__ import annotations

from shared.errors import InvalidError, NotFoundError


class InvalidModelError(InvalidError):
    code = "invalid_model"
    default_detail = "The model is not available"


class ModelNotFoundError(NotFoundError):
    code = "model_not_found"
    default_detail = "Model not found"
