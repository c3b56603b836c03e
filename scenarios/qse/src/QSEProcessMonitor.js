'use strict';
// The monitor: a background worker without a port. Checks the other two each second and logs what changed.

const http = require('node:http');

const PERIOD_MS = 1000;
const checked = [
  { name: 'quantum-orchestration-engine', url: process.env.ENGINE_URL || 'http://127.0.0.1:3000', state: 'unknown' },
  { name: 'quantum-sync-analytics', url: process.env.ANALYTICS_URL || 'http://127.0.0.1:3010', state: 'unknown' },
];

for (const { url } of checked) new URL('/health', url);
console.log(`qse-monitor: pid ${process.pid}, checking ${checked.map(({ name }) => name).join(', ')}`);
const timer = setInterval(checkAll, PERIOD_MS);
checkAll();

if (process.env.GRACEFUL === '1') {
  const stop = () => clearInterval(timer);
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
}

function checkAll() {
  for (const service of checked) {
    check(service.url).then((state) => {
      if (state !== service.state) console.log(`qse-monitor: ${service.name}: ${service.state} -> ${state}`);
      service.state = state;
    });
  }
}

function check(url) {
  return new Promise((resolve) => {
    // A connection of its own each time: a kept one would not notice that new ones are refused.
    const request = http.get(new URL('/health', url), { agent: false, timeout: PERIOD_MS * 0.9 }, (response) => {
      response.resume();
      response.on('end', () => resolve(response.statusCode === 200 ? 'up' : `status ${response.statusCode}`));
      response.on('error', () => resolve('down'));
    });
    request.on('timeout', () => request.destroy(new Error('timed out')));
    request.on('error', () => resolve('down'));
  });
}
