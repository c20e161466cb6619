// A study as something to paste elsewhere.

const server = location.origin + document.body.dataset.root;

function yaml(value, indent = "") {
  if (Array.isArray(value)) return `[${value.map((one) => flow(one)).join(", ")}]`;
  if (value === null || typeof value !== "object") return flow(value);
  return Object.entries(value).map(([key, one]) => {
    const nested = one !== null && typeof one === "object" && !Array.isArray(one)
      && Object.values(one).some((inner) => inner !== null && typeof inner === "object"
        && !Array.isArray(inner));
    const shown = one !== null && typeof one === "object" && !Array.isArray(one) && !nested
      ? `{${Object.entries(one).map(([name, inner]) => `${flow(name)}: ${flow(inner)}`).join(", ")}}`
      : nested ? `\n${yaml(one, `${indent}  `)}` : yaml(one, indent);
    return `${indent}${flow(key)}:${nested ? "" : " "}${shown}`;
  }).join("\n");
}

// JSON is YAML; plain words go without quotes. An exponent needs a dot to be a number in YAML 1.1.
function flow(value) {
  if (typeof value === "string") return /^[A-Za-z_][\w.-]*$/.test(value) && !RESERVED.has(value.toLowerCase()) ? value : JSON.stringify(value);
  if (typeof value === "number") {
    const text = String(value);
    return text.includes("e") && !text.includes(".") ? text.replace("e", ".0e") : text;
  }
  if (Array.isArray(value)) return `[${value.map(flow).join(", ")}]`;
  if (value !== null && typeof value === "object") {
    return `{${Object.entries(value).map(([name, inner]) => `${flow(name)}: ${flow(inner)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
}

const RESERVED = new Set(["true", "false", "null", "yes", "no", "on", "off", "y", "n"]);

export const forms = {
  yaml: (spec) => `${yaml(spec)}\n`,
  curl: (spec) => `curl -X POST ${server}/api/v1/studies \\\n  -H "Authorization: Bearer $TUNER_TOKEN" `
    + `-H "Content-Type: application/json" \\\n  -d '${JSON.stringify(spec).replaceAll("'", "'\\''")}'\n`,
  python: (spec) => `import json\n\nfrom tuner.client import Client\n\nclient = Client(${JSON.stringify(server)})\n`
    + `study = client.submit(json.loads(${JSON.stringify(JSON.stringify(spec))}))\nclient.wait(study.id)\n`,
};
