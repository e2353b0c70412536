# Sourced. The broker on this machine, what is said through it, and how to ask the board. `work` is a folder, `port` the broker's.

answers=jouled/test/answers

start_broker() {
    printf 'listener %s 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nmax_queued_messages 0\n' "$port" > "$work/mosquitto.conf"
    mosquitto -c "$work/mosquitto.conf" 2> "$work/broker.log" &
    broker=$!
    within 10 mosquitto_pub -p "$port" -t test -n
    # All that is said: topic, tab, payload.
    stdbuf -oL mosquitto_sub -V mqttv5 -p "$port" -q 1 -t 'jouled/#' -F '%t\t%p' > "$work/traffic" &
    listener=$!
}

# Payloads that came on a topic so far.
heard() { awk -F '\t' -v topic="$1" '$1 == topic { print $2 }' "$work/traffic"; }
status_is() { [[ $(heard jouled/board/status | tail -1) == "$1" ]]; }

# One source as the last `stats` tell of it.
source_state() { heard jouled/board/stats | tail -1 | jq -r --arg name "$1" '.sources[] | select(.name == $name) | .state'; }
source_is() { [[ $(source_state "$1") == "$2" ]]; }
results_of() { heard jouled/board/model/vibration/result | jq -r --arg name "$1" 'select(.source == $name) | .result.label' | wc -l; }
more_results_of() { (($(results_of "$1") > $2)); }

# Publishes pictures of digits under the numbers FIRST to LAST, and notes them as published once the broker has acknowledged them.
publish() {
    local number digit
    for ((number = $1; number <= $2; number++)); do
        digit=$((number % 10))
        printf '{"id":%d,"base64":"%s"}\n' "$number" "$(base64 -w0 "models/digits.sample-$digit.png")"
    done > "$work/requests"
    mosquitto_pub -V mqttv5 -p "$port" -q 1 -t jouled/board/model/digits/infer -D publish response-topic "$answers" -l < "$work/requests"
    seq "$1" "$2" >> "$work/published"
}

answered() { heard "$answers" | jq -r .id | sort -nu; }
unanswered() { comm -23 <(sort "$work/published") <(answered | sort); }
all_answered() { [[ -z $(unanswered) ]]; }
more_answers_than() { (($(answered | wc -l) > $1)); }

# Answers, of any number, that are an error or name another digit than the picture's.
wrong_answers() { heard "$answers" | jq -c 'select(.result.label != (.id % 10 | tostring))'; }
