"""The alerts: that they ask for what exists, and that the runbook knows each of them."""

from __future__ import annotations

import re
from typing import Any, Final

import pytest
import yaml

from tests.support.deploy_files import DEPLOY
from tests.support.prometheus_rule import RESOURCE, RULES, write_resource
from tests.support.promql import exposed_series, problems_of, words_of
