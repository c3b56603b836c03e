'use strict';
// The engine: work on request. Two instances share a port in cluster mode.

const { serve, work } = require('./http-service.js');

serve('quantum-orchestration-engine', {
  'GET /work': work,
  'POST /work': work,
});
