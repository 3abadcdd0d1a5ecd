// What is wrong with a node of ours is marked on that node, and on no socket of it.
//
// The host names, for a node that it cannot validate, the input of the *next* node (`execution.py`, validate_inputs), and
// the page puts a red ring around the input of that name on the node with the error. Where units are chained, that is the
// socket `units_before` of the wrong unit, which is innocent. No field of an error says which input is meant; a name that no
// input has rings none, and the page puts it into its sentence ("couldn't validate its settings: the range ...").

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const OURS = "ControlStack";
const OF_THE_NEXT = "exception_during_inner_validation";
const NO_INPUT = "its settings";

function mend(nodeErrors) {
  for (const { class_type: type, errors } of Object.values(nodeErrors ?? {})) {
    if (!type?.startsWith(OURS)) continue;
    for (const { type: kind, extra_info: more } of errors ?? []) {
      if (kind === OF_THE_NEXT && more) more.input_name = NO_INPUT;
    }
  }
}

app.registerExtension({
  name: "ControlStack.Rings",
  setup() {
    const queue = api.queuePrompt;
    api.queuePrompt = async function (...given) {
      try {
        const answer = await queue.apply(this, given);
        mend(answer?.node_errors); // some outputs are run, and others cannot be
        return answer;
      } catch (error) {
        mend(error?.response?.node_errors);
        throw error;
      }
    };
  },
});
