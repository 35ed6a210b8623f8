from __future__ import annotations

from fastapi import APIRouter, Depends

from api.auth import Action
from api.dependencies import Context, require
from api.model_catalog.schemas import Model, ModelList
from api.problems import problem_responses
from shared.model_catalog.errors import ModelNotFoundError

router = APIRouter(tags=["models"])


@router.get("/models", dependencies=[Depends(require(Action.LIST_MODELS))], responses=problem_responses())
async def list_models(context: Context) -> ModelList:
    """The models a chat can be created with, in the order of the catalog."""
    return ModelList(items=tuple(Model.of(model) for model in context.catalog.loaded.enabled_models()))


@router.get(
    "/models/{model_id:path}",  # the id may hold slashes
    dependencies=[Depends(require(Action.READ_MODEL))],
    responses=problem_responses(ModelNotFoundError),
)
async def get_model(model_id: str, context: Context) -> Model:
    """One model; a disabled one is as good as none."""
    model = context.catalog.loaded.find_model(model_id)
    if model is None or not model.enabled:
        raise ModelNotFoundError
    return Model.of(model)
