"""Headless Chromium, driven through its own protocol: for tests and benchmarks of pages. Nothing is fetched from anywhere."""
import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

CHROMIUM = os.environ.get('CHROMIUM') or next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome'))), None)
OPTIONS = ('--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
           '--disable-quic', '--disable-dev-shm-usage', '--hide-scrollbars', '--remote-debugging-port=0', '--remote-allow-origins=*')
KEYS = {' ': ('Space', 32), 'ArrowLeft': ('ArrowLeft', 37), 'ArrowUp': ('ArrowUp', 38), 'ArrowRight': ('ArrowRight', 39), 'ArrowDown': ('ArrowDown', 40),
        'Home': ('Home', 36), 'End': ('End', 35), 'PageUp': ('PageUp', 33), 'PageDown': ('PageDown', 34), 'Tab': ('Tab', 9), 'Enter': ('Enter', 13)}


class Browser:
    "One Chromium with one page; a context manager. `errors` gathers what the page's console and its exceptions say."
    def __init__(self, timeout: float = 60):
        import websocket
        self.folder, self.timeout, self.count, self.errors, self.requests = tempfile.mkdtemp(), timeout, itertools.count(1), [], []
        self.process = subprocess.Popen([CHROMIUM, *OPTIONS, f'--user-data-dir={self.folder}', 'about:blank'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try: self.socket = websocket.create_connection(self._address(), timeout=timeout)
        except BaseException:
            self._end()
            raise
        for domain in ('Page', 'Runtime', 'Log', 'Network'): self.send(f'{domain}.enable')

    def _address(self) -> str:
        "The page's websocket, once Chromium has said where it listens."
        import urllib.request
        port, end = Path(self.folder)/'DevToolsActivePort', time.monotonic() + self.timeout
        while time.monotonic() < end and self.process.poll() is None:
            if port.exists() and (lines := port.read_text().split()):
                with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f'http://127.0.0.1:{lines[0]}/json', timeout=self.timeout) as f: pages = [p for p in json.load(f) if p['type'] == 'page']
                if pages: return pages[0]['webSocketDebuggerUrl']
            time.sleep(.05)
        raise RuntimeError(f'{CHROMIUM} did not start (exit status {self.process.poll()})')

    def send(self, method: str, **params) -> dict:
        "Call a method of the protocol; events that come meanwhile are noted."
        number = next(self.count)
        self.socket.send(json.dumps(dict(id=number, method=method, params=params)))
        while True:
            message = json.loads(self.socket.recv())
            if message.get('id') == number: break
            self._note(message.get('method'), message.get('params', {}))
        if 'error' in message: raise RuntimeError(f"{method}: {message['error']}")
        return message['result']

    def _note(self, method: str|None, params: dict) -> None:
        if method == 'Runtime.exceptionThrown': self.errors.append(str(params['exceptionDetails'].get('exception', params['exceptionDetails']).get('description')))
        elif method == 'Runtime.consoleAPICalled' and params['type'] in ('error', 'warning', 'assert'): self.errors.append(str(params['args']))
        elif method == 'Log.entryAdded' and params['entry']['level'] in ('error', 'warning'): self.errors.append(params['entry']['text'])
        elif method == 'Network.requestWillBeSent': self.requests.append(params['request']['url'])

    def run(self, script: str) -> object:
        "The value of a JavaScript expression; a promise is waited for."
        result = self.send('Runtime.evaluate', expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        if 'exceptionDetails' in result: raise RuntimeError(result['exceptionDetails'].get('exception', {}).get('description'))
        return result['result'].get('value')

    def wait(self, script: str, seconds: float = 20) -> object:
        "Wait until an expression is true."
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            if time.monotonic() > end: raise TimeoutError(f'{script} is still {value!r} after {seconds} s')
            time.sleep(.02)
        return value

    def open(self, path: Path) -> None:
        "Open a file and wait until it is loaded."
        self.send('Page.navigate', url=Path(path).resolve().as_uri())
        self.wait(f'document.readyState === "complete" && location.href === {json.dumps(Path(path).resolve().as_uri())}')

    def screen(self, width: int = 1280, height: int = 800, phone: bool = False, theme: str = 'light', scale: float = 1) -> None:
        "Size of the window, touch instead of a mouse, preferred colours."
        self.send('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=scale, mobile=phone)
        self.send('Emulation.setTouchEmulationEnabled', enabled=phone)
        self.send('Emulation.setEmulatedMedia', features=[dict(name='prefers-color-scheme', value=theme)])

    def key(self, key: str, shift: bool = False) -> None:
        "Press and release a key."
        code, number = KEYS.get(key) or (f'Key{key.upper()}', ord(key.upper()))
        event = dict(key=key, code=code, windowsVirtualKeyCode=number, modifiers=8*shift)
        text = {' ': ' ', 'Enter': '\r'}.get(key, key if len(key) == 1 else None)
        self.send('Input.dispatchKeyEvent', type='keyDown', **event, **({'text': text} if text else {}))
        self.send('Input.dispatchKeyEvent', type='keyUp', **event)

    def click(self, x: float, y: float, to: tuple[float, float]|None = None) -> None:
        "Press the mouse at a place, drag it to another if given, release it."
        self.send('Input.dispatchMouseEvent', type='mousePressed', x=x, y=y, button='left', buttons=1, clickCount=1)
        if to:
            x, y = to
            self.send('Input.dispatchMouseEvent', type='mouseMoved', x=x, y=y, button='left', buttons=1)
        self.send('Input.dispatchMouseEvent', type='mouseReleased', x=x, y=y, button='left', clickCount=1)

    def tap(self, x: float, y: float) -> None:
        "Touch a place with one finger."
        self.send('Input.dispatchTouchEvent', type='touchStart', touchPoints=[dict(x=x, y=y)])
        self.send('Input.dispatchTouchEvent', type='touchEnd', touchPoints=[])

    def picture(self, path: Path, whole: bool = True) -> Path:
        "A screenshot, of the whole page or of what is seen of it."
        path.write_bytes(base64.b64decode(self.send('Page.captureScreenshot', format='png', captureBeyondViewport=whole)['data']))
        return path

    def _end(self) -> None:
        self.process.terminate()
        try: self.process.wait(10)
        except subprocess.TimeoutExpired: self.process.kill(); self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> 'Browser': return self
    def __exit__(self, *_) -> None:
        self.socket.close()
        self._end()
