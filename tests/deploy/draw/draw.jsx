// Draws a dashboard with Grafana's own panel components on the data of a Prometheus.
//
// dashboard JSON + job.json -> queries -> data frames -> transformations -> field options -> panels
//
// It stands in for the Grafana server: variables are replaced by what job.json says, and neither
// provisioning nor the variables' own queries are exercised.

import {
  applyFieldOverrides,
  booleanOverrideProcessor,
  cacheFieldDisplayNames,
  createTheme,
  dateTime,
  displayNameOverrideProcessor,
  FieldType,
  getDisplayValueAlignmentFactors,
  getFieldDisplayValues,
  identityOverrideProcessor,
  numberOverrideProcessor,
  standardFieldConfigEditorRegistry,
  standardTransformers,
  standardTransformersRegistry,
  thresholdsOverrideProcessor,
  ThemeContext,
  toDataFrame,
  transformDataFrame,
  unitOverrideProcessor,
  valueMappingsOverrideProcessor,
} from '@grafana/data';
import { BarGauge, BigValue, GlobalStyles, PanelChrome, PortalContainer, TimeSeries, VizRepeater } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';
import '@grafana/react-data-grid/lib/styles.css';
import 'uplot/dist/uPlot.min.css';
import { createRoot } from 'react-dom/client';
import { lastValueFrom } from 'rxjs';

const COLUMNS = 24;
const ROW = 30;
const GAP = 8;
// Options of a panel's own that the dashboards set.
const CUSTOM = ['cellOptions', 'fillOpacity', 'lineStyle', 'scaleDistribution', 'stacking', 'thresholdsStyle'];

const option = (id, process, isCustom = false) => ({
  id,
  path: isCustom ? id.replace('custom.', '') : id,
  isCustom,
  name: id,
  editor: () => null,
  override: () => null,
  process,
  shouldApply: () => true,
});

standardFieldConfigEditorRegistry.setInit(() => [
  option('unit', unitOverrideProcessor),
  option('min', numberOverrideProcessor),
  option('max', numberOverrideProcessor),
  option('decimals', numberOverrideProcessor),
  option('displayName', displayNameOverrideProcessor),
  option('noValue', identityOverrideProcessor),
  option('color', identityOverrideProcessor),
  option('links', identityOverrideProcessor),
  option('thresholds', thresholdsOverrideProcessor),
  option('mappings', valueMappingsOverrideProcessor),
  option('filterable', booleanOverrideProcessor),
  ...CUSTOM.map((name) => option(`custom.${name}`, identityOverrideProcessor, true)),
]);
standardTransformersRegistry.setInit(() =>
  [...new Map(Object.values(standardTransformers).map((one) => [one.id, one])).values()].map((one) => ({
    id: one.id,
    name: one.name,
    transformation: () => Promise.resolve(one),
    editor: () => null,
  }))
);

/** Return text with the dashboard's variables replaced, as Grafana would. */
function fill(text, job) {
  return text.replace(/\$(\w+)/g, (whole, name) => job.variables[name] ?? whole);
}

/** Return the name of a series by its target's legend. */
function legend(target, labels) {
  return target.legendFormat?.replace(/{{(\w+)}}/g, (_, name) => labels[name] ?? '') || undefined;
}

/** Ask Prometheus, and return what it says as Grafana's data frames. */
async function query(target, job) {
  const path = target.instant ? 'query' : 'query_range';
  const span = target.instant ? { time: job.to } : { start: job.from, end: job.to, step: job.step };
  const parameters = new URLSearchParams({ query: fill(target.expr, job), ...span });
  const answer = await (await fetch(`${job.prometheus}/api/v1/${path}?${parameters}`)).json();
  if (answer.status !== 'success') {
    throw new Error(`${target.expr}: ${answer.error}`);
  }
  return target.format === 'table'
    ? [table(target, answer.data.result)]
    : answer.data.result.map((one) => line(target, one, job));
}

/** One series over time, with a gap where nothing was. */
function line(target, { metric, value, values }, job) {
  const known = new Map((values ?? [value]).map(([time, text]) => [time, Number(text)]));
  const times = values ? range(job.from, job.to, job.step) : [value[0]];
  return toDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: times.map((time) => time * 1000) },
      {
        name: 'Value',
        type: FieldType.number,
        labels: metric,
        config: { displayNameFromDS: legend(target, metric) },
        values: times.map((time) => known.get(time) ?? null),
      },
    ],
  });
}

function range(from, to, step) {
  return Array.from({ length: Math.floor((to - from) / step) + 1 }, (_, index) => from + index * step);
}

/** A row for each series: its labels and its value. */
function table(target, result) {
  const labels = [...new Set(result.flatMap((one) => Object.keys(one.metric)))].sort();
  return toDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: result.map((one) => one.value[0] * 1000) },
      ...labels.map((name) => ({
        name,
        type: FieldType.string,
        values: result.map((one) => one.metric[name] ?? ''),
      })),
      { name: 'Value', type: FieldType.number, values: result.map((one) => Number(one.value[1])) },
    ],
  });
}

/** Return the variables as one panel sees them: a rate is over four scrapes, or its least interval. */
function seenBy(panel, job) {
  const [, least, unit] = panel.interval?.match(/(\d+)([sm])/) ?? [null, 0, 's'];
  const seconds = Math.max(4 * job.scrape, job.step + job.scrape, least * (unit === 'm' ? 60 : 1) + job.scrape);
  return { ...job, variables: { ...job.variables, __rate_interval: `${seconds}s` } };
}

async function load(panel, dashboardJob, theme) {
  const job = seenBy(panel, dashboardJob);
  const answers = (await Promise.all(panel.targets.map((target) => query(target, job)))).flat();
  // The panels' plugins, which the server has, choose these where a dashboard leaves them open.
  panel.fieldConfig.defaults.color ??= { mode: panel.type === 'timeseries' ? 'palette-classic' : 'thresholds' };
  const shaped = await lastValueFrom(transformDataFrame(panel.transformations ?? [], answers));
  const frames = applyFieldOverrides({
    data: shaped,
    fieldConfig: panel.fieldConfig,
    replaceVariables: (text) => fill(text, job),
    theme,
    timeZone: 'utc',
  });
  cacheFieldDisplayNames(frames);
  return frames;
}

function Values({ panel, frames, width, height, theme, render, orientation }) {
  const getValues = () =>
    getFieldDisplayValues({
      fieldConfig: panel.fieldConfig,
      reduceOptions: panel.options.reduceOptions,
      replaceVariables: (text) => text,
      theme,
      data: frames,
      sparkline: panel.type === 'stat',
      timeZone: 'utc',
    });
  return (
    <VizRepeater
      getValues={getValues}
      renderValue={render}
      width={width}
      height={height}
      source={frames}
      orientation={orientation}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      itemSpacing={panel.type === 'bargauge' ? 10 : 3}
      minVizHeight={16}
    />
  );
}

function Content({ panel, frames, width, height, theme, job }) {
  if (!frames.some((frame) => frame.length)) {
    return <Nothing />;
  }
  switch (panel.type) {
    case 'timeseries':
      return (
        <TimeSeries
          frames={frames}
          structureRev={1}
          timeRange={{ from: dateTime(job.from * 1000), to: dateTime(job.to * 1000), raw: { from: '', to: '' } }}
          timeZone="utc"
          width={width}
          height={height}
          legend={panel.options.legend}
          options={panel.options}
        />
      );
    case 'table':
      return <TableNG data={frames[0]} width={width} height={height} structureRev={1} />;
    case 'stat':
      return (
        <Values
          {...{ panel, frames, width, height, theme }}
          render={({ value, ...size }) => (
            <BigValue
              value={value.display}
              sparkline={value.sparkline}
              theme={theme}
              colorMode={panel.options.colorMode}
              graphMode={panel.options.graphMode}
              textMode={panel.options.textMode}
              justifyMode={panel.options.justifyMode}
              width={size.width}
              height={size.height}
            />
          )}
        />
      );
    case 'bargauge':
      return (
        <Values
          {...{ panel, frames, width, height, theme }}
          orientation={panel.options.orientation}
          render={({ value, alignmentFactors, orientation, ...size }) => (
            <BarGauge
              value={value.display}
              display={value.view?.getFieldDisplayProcessor(value.colIndex)}
              field={value.field}
              theme={theme}
              orientation={orientation}
              displayMode={panel.options.displayMode}
              alignmentFactors={alignmentFactors}
              itemSpacing={10}
              lcdCellWidth={2}
              namePlacement={panel.options.namePlacement}
              showUnfilled={panel.options.showUnfilled}
              text={{}}
              width={size.width}
              height={size.height}
            />
          )}
        />
      );
    default:
      throw new Error(`no component for a panel of type ${panel.type}`);
  }
}

const Nothing = () => (
  <div style={{ display: 'flex', height: '100%', alignItems: 'center', justifyContent: 'center' }}>No data</div>
);

function Cell({ panel, frames, place, theme, job }) {
  const style = { position: 'absolute', ...place };
  if (panel.type === 'row') {
    return <div style={{ ...style, fontWeight: 500, fontSize: 16, paddingTop: 6 }}>{panel.title}</div>;
  }
  return (
    <div style={style}>
      <PanelChrome title={panel.title} description={panel.description} width={place.width} height={place.height}>
        {(width, height) => <Content {...{ panel, frames, width, height, theme, job }} />}
      </PanelChrome>
    </div>
  );
}

function place({ x, y, w, h }, width) {
  const cell = (width - GAP * (COLUMNS + 1)) / COLUMNS;
  return {
    left: GAP + x * (cell + GAP),
    top: GAP + y * (ROW + GAP),
    width: w * (cell + GAP) - GAP,
    height: h * (ROW + GAP) - GAP,
  };
}

async function draw() {
  const { dashboard, ...job } = window.JOB;
  const theme = createTheme({ colors: { mode: job.theme } });
  const data = await Promise.all(
    dashboard.panels.map((panel) => (panel.type === 'row' ? [] : load(panel, job, theme)))
  );
  document.body.style.background = theme.colors.background.canvas;
  createRoot(document.getElementById('root')).render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <PortalContainer />
      {dashboard.panels.map((panel, index) => (
        <Cell
          key={panel.id}
          panel={panel}
          frames={data[index]}
          place={place(panel.gridPos, job.width)}
          theme={theme}
          job={job}
        />
      ))}
    </ThemeContext.Provider>
  );
}

draw().catch((error) => console.error(`draw.jsx: ${error.stack ?? error}`));
