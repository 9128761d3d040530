"""The scaler's words from KEDA's protobuf and to it. Whole numbers are rounded up: a little work is work."""

from __future__ import annotations

import math

from services.router.keda import externalscaler_pb2 as pb
from services.router.scaler import METRIC, Trigger

_MOST = 2**63 - 1


def trigger_from_pb(message: pb.ScaledObjectRef) -> Trigger:
    return Trigger.of(message.scalerMetadata)


def spec_to_pb(trigger: Trigger) -> pb.GetMetricSpecResponse:
    target = trigger.target_s
    spec = pb.MetricSpec(metricName=METRIC, targetSize=_whole(target), targetSizeFloat=target)
    return pb.GetMetricSpecResponse(metricSpecs=[spec])


def metric_to_pb(value: float) -> pb.GetMetricsResponse:
    metric = pb.MetricValue(metricName=METRIC, metricValue=_whole(value), metricValueFloat=value)
    return pb.GetMetricsResponse(metricValues=[metric])


def _whole(value: float) -> int:
    return min(math.ceil(value), _MOST)
