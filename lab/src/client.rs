//! The built-in client (`lab request`): one request, its outcome as JSON.
