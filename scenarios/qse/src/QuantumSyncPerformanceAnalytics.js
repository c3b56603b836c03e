'use strict';
// The analytics: takes in values and sums them up.

const { serve, work } = require('./http-service.js');
const { HttpError } = require('./request.js');

// Bounded, so that no caller can make the process grow for ever.
const METRICS_MOST = 100;
const metrics = new Map();

serve('quantum-sync-analytics', {
  'GET /work': work,
  'POST /work': work,
  'POST /ingest': (_url, body) => {
    const values = parse(body);
    for (const { metric, value } of values) add(metric, value);
    return { ingested: values.length };
  },
  'GET /summary': () => ({ metrics: Object.fromEntries(metrics) }),
});

function parse(body) {
  let values;
  try {
    ({ values } = JSON.parse(body.toString('utf8')));
  } catch {
    throw new HttpError(400, 'body must be a JSON object');
  }
  const right = (entry) => typeof entry?.metric === 'string' && Number.isFinite(entry.value);
  if (!Array.isArray(values) || !values.every(right)) {
    throw new HttpError(400, 'body must be {"values": [{"metric": "name", "value": number}]}');
  }
  return values;
}

function add(metric, value) {
  const known = metrics.get(metric);
  if (known) {
    known.count += 1;
    known.sum += value;
    known.min = Math.min(known.min, value);
    known.max = Math.max(known.max, value);
  } else if (metrics.size < METRICS_MOST) {
    metrics.set(metric, { count: 1, sum: value, min: value, max: value });
  } else {
    throw new HttpError(507, `more than ${METRICS_MOST} metrics`);
  }
}
