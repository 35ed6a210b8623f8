"""What the server holds in memory, and the keys under which handlers find it on the application."""

from aiohttp import web

from api.demo_provider.journal import Journal
from api.demo_provider.script import ScriptQueue
from api.demo_provider.storage import Storage
from api.demo_provider.storage_script import StorageScripts

QUEUE = web.AppKey("queue", ScriptQueue)
STORAGE_SCRIPTS = web.AppKey("storage_scripts", StorageScripts)
STORAGE = web.AppKey("storage", Storage)
JOURNAL = web.AppKey("journal", Journal)
