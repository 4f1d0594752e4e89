// Say of each custom resource what is wrong with it: objects as JSON on stdin -> a JSON list of lines.
// Its schema checks values and lets any name pass; its TypeScript knows the names.
import {readFileSync, writeFileSync} from "node:fs";
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";

const [folder, scratch] = process.argv.slice(2);
const require = createRequire(`${folder}/`);
const ts = require("typescript");
const homes = {
  "gateway.networking.k8s.io": "gateway-api",
  "keda.sh": "keda",
  "monitoring.coreos.com": "prometheus-operator",
};
const wrong = [], lines = [];
for (const [n, one] of JSON.parse(readFileSync(0)).entries()) {
  const [group, version] = one.apiVersion.split("/");
  const path = `${folder}/node_modules/@kubernetes-models/${homes[group]}/${group}/${version}/${one.kind}`;
  const Model = (await import(pathToFileURL(`${path}.js`)))[one.kind];
  try {
    new Model(one).validate();
  } catch (error) {
    wrong.push(`${one.kind}: ${error.message}`);
  }
  lines.push(`import type {I${one.kind} as T${n}} from ${JSON.stringify(`${path}.js`)};`);
  lines.push(`export const o${n}: T${n} = ${JSON.stringify(one)};`);
}
writeFileSync(scratch, lines.join("\n"));
const program = ts.createProgram([scratch], {
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
  noEmit: true,
  skipLibCheck: true,
  strict: true,
  types: [],
});
for (const {messageText} of ts.getPreEmitDiagnostics(program)) {
  wrong.push(ts.flattenDiagnosticMessageText(messageText, " "));
}
console.log(JSON.stringify(wrong));
