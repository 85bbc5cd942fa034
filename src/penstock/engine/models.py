"""A cluster of several models: who may serve a request, and a router among those alone."""

from __future__ import annotations

from collections.abc import Callable

from penstock.engine.fleet import Fleet, FleetColumns, watch
from penstock.engine.router import Router
from penstock.errors import Problem, nearest
from penstock.spec.cluster import ClusterSpec
from penstock.workload.request import Request
from penstock.workload.workload import Workload


def cluster_models(cluster: ClusterSpec) -> tuple[str, ...]:
    """The models of its instances, each once, in order."""
    return tuple(dict.fromkeys(instance.model.name for instance in cluster.instances))


def eligible_instances(cluster: ClusterSpec, model: str | None) -> tuple[int, ...]:
    """Indices of the instances that serve ``model``; all of them for None, which names none."""
    return tuple(
        place
        for place, instance in enumerate(cluster.instances)
        if model is None or instance.model.name == model
    )


def model_mistake(cluster: ClusterSpec, model: str | None) -> str | None:
    """Why a request that names ``model`` cannot be routed, or None: no instance serves it, or it names none where
    there are several."""
    models = cluster_models(cluster)
    known = f"the cluster has {', '.join(models)}"
    if model is None:
        return f"names no model ('model'); {known}" if len(models) > 1 else None
    return None if model in models else f"names the model '{model}'{nearest(model, models)}; {known}"


def model_problems(cluster: ClusterSpec, workload: Workload) -> list[Problem]:
    """What :func:`model_mistake` finds in a workload, once for each model that is named, with how many requests."""
    return [
        Problem(workload.source, f"{count:,} of {len(workload):,} requests: each {mistake}")
        for model, count in workload.requests_by_model().items()
        if (mistake := model_mistake(cluster, model)) is not None
    ]


class ModelRouter:
    """Routes each request among the instances of its model, with a router of its own for each model, which sees
    these instances only, numbered from 0."""

    def __init__(self, cluster: ClusterSpec, make: Callable[[], Router]) -> None:
        self._parts = {
            model: _Part(eligible_instances(cluster, model), make()) for model in cluster_models(cluster)
        }

    def route(self, request: Request, instances: Fleet) -> tuple[int, str]:
        """See :class:`~penstock.engine.router.Router`.

        Raises:
            LookupError: the request names no model of the cluster; :func:`model_problems` finds these before.
        """
        if request.model is None or request.model not in self._parts:
            raise LookupError(f"request {request.index} names no model of the cluster")
        return self._parts[request.model].route(request, instances)


class _Part:
    """The instances of one model."""

    def __init__(self, indices: tuple[int, ...], router: Router) -> None:
        self._indices = indices
        self._router = router
        self._view: tuple[Fleet, FleetColumns] | None = None

    def route(self, request: Request, instances: Fleet) -> tuple[int, str]:
        if len(self._indices) == 1:
            return self._indices[0], "the only one of its model"
        index, reason = self._router.route(request, self._present(instances))
        return self._indices[index], reason

    def _present(self, instances: Fleet) -> Fleet:
        """These instances as they are now."""
        if self._view is None:
            self._view = watch([instances[index] for index in self._indices])
        fleet, columns = self._view
        for place, index in enumerate(self._indices):
            columns.refresh(place, instances[index])
        return fleet


def cluster_router(cluster: ClusterSpec, make: Callable[[], Router]) -> Router:
    """The router that ``make`` makes, one for each model where there are several."""
    return make() if len(cluster_models(cluster)) == 1 else ModelRouter(cluster, make)
