"""An endpoint of this process, while a test asks it."""

import threading

import uvicorn

from data.web import httpx
from train.serving.endpoint import Endpoint
from train.serving.files import Files
from train.serving.questions import Reader
from train.serving.server import Limits, guarded, listen
from train.serving.service import Service
from train.talking.sampling import Sampling

NUM_TOKENS = 6
NAME = "tiny"
MIB = 2**20
LIMITS = Limits(max_requests=8, max_file=2 * MIB, max_body=MIB, max_files=4 * MIB, seconds=5.0, end_seconds=2)


class Running:
    """An endpoint in this process; add_page: what adds a page to it."""

    def __init__(self, talker, folder, limits=LIMITS, token=None, host="127.0.0.1", add_page=None):
        self.files = Files(folder, limits.max_files, limits.max_file)
        self.service = Service(talker, limits.max_requests)
        self.bound = listen(host, 0, token)
        self.url = f"http://127.0.0.1:{self.bound.getsockname()[1]}"
        self.reader = Reader(NAME, self.files, Sampling(max_tokens=NUM_TOKENS))
        self.endpoint = Endpoint(self.service, self.reader, self.files)
        self.app = self.endpoint.app()
        if add_page:
            add_page(self.app, self.endpoint)
        app = guarded(self.app, token, host != "127.0.0.1", limits)
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=2)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([self.bound],))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join()
        self.bound.close()

    def post(self, body, **options):
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=60, **options)

    def state(self):
        return httpx.get(f"{self.url}/health", timeout=60).json()
