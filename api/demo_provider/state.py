"""What the server holds in memory, and the keys under which handlers find it on the application."""

from aiohttp import web

from api.demo_provider.journal import Journal
from api.demo_provider.script import ScriptQueue

QUEUE = web.AppKey("queue", ScriptQueue)
JOURNAL = web.AppKey("journal", Journal)
