#include "node.h"

#include <string.h>

#include "cbor.h"

/* Without an acknowledgement the oldest reading is sent again after a pause, twice as long each
 * time. */
#define SHORTEST_PATIENCE_MS 2000u
#define LONGEST_PATIENCE_MS 60000u

/* What the gateway asks for so soon after it was sent is still on its way. */
#define ON_ITS_WAY_MS 500u

#define LONGEST_NAME_ANSWERED 16

/* What is to be said of the settings, as bits. */
#define REPORT 1u
#define REPORT_NUMBER 2u
#define REPORT_REFUSAL 4u

static void advance_clock(struct node *node, uint32_t now_ms)
{
    if (now_ms < node->now_ms)
        node->wraps++;
    node->now_ms = now_ms;
}

void node_start(struct node *node, const struct sensor *sensors, uint32_t board, uint32_t boot,
                uint32_t interval_ms, uint32_t now_ms)
{
    memset(node, 0, sizeof *node);
    node->sensors = sensors;
    node->board = board;
    node->boot = boot;
    node->interval_ms = interval_ms;
    node->now_ms = now_ms;
    node->taken_ms = now_ms - interval_ms;
    node->again_ms = now_ms - ON_ITS_WAY_MS;
    node->patience_ms = SHORTEST_PATIENCE_MS;
}

bool node_is_due(struct node *node, uint32_t now_ms)
{
    advance_clock(node, now_ms);
    return now_ms - node->taken_ms >= node->interval_ms;
}

void node_record(struct node *node, const value_t values[SENSORS], uint32_t now_ms)
{
    struct reading *reading = readings_add(&node->readings);

    advance_clock(node, now_ms);
    reading->taken_ms = now_ms;
    memcpy(reading->values, values, sizeof reading->values);
    /* Keep the rhythm, unless whole intervals were missed. */
    node->taken_ms += node->interval_ms;
    if (now_ms - node->taken_ms >= node->interval_ms)
        node->taken_ms = now_ms;
}

/* --- commands --- */

static void say(struct node *node, const char *text)
{
    strncat(node->answer, text, sizeof node->answer - 1 - strlen(node->answer));
}

static void begin_answer(struct node *node, const char *text)
{
    if (node->answer[0] != '\0')
        say(node, "; ");
    say(node, text);
}

static void say_number(struct node *node, uint32_t number)
{
    char digits[11];
    char *first = digits + sizeof digits - 1;

    *first = '\0';
    do {
        *--first = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    say(node, first);
}

static void refuse(struct node *node, const struct cbor_item *name)
{
    char shown[LONGEST_NAME_ANSWERED + 1];
    uint8_t size = 0;

    while (size < LONGEST_NAME_ANSWERED && size < name->number) {
        uint8_t byte = name->text[size];

        shown[size++] = ' ' <= byte && byte <= '~' ? (char)byte : '?';
    }
    shown[size] = '\0';
    begin_answer(node, "refused: ");
    say(node, shown);
}

static bool set_interval(struct node *node, const struct cbor_item *value)
{
    if (value->major != CBOR_UNSIGNED || value->high != 0 ||
        value->number < NODE_SHORTEST_INTERVAL_MS || value->number > NODE_LONGEST_INTERVAL_MS)
        return false;
    node->interval_ms = value->number;
    return true;
}

static void say_interval(struct node *node)
{
    begin_answer(node, "interval_ms"); /* a text that is there once */
    say(node, " is now ");
    say_number(node, node->interval_ms);
}

/* Takes what is in the map, whose members the reader is at, and returns what to say of it. Settings
 * that we do not have are not in the report: that tells enough. */
static uint8_t set(struct node *node, struct cbor_reader reader, const struct cbor_item *map)
{
    uint8_t report = REPORT;
    struct cbor_item name, value;

    for (uint32_t left = map->number; left > 0; left--) {
        if (!cbor_get(&reader, &name) || name.major != CBOR_TEXT || !cbor_get(&reader, &value))
            break;
        if (cbor_text_is(&name, "interval_ms") && !set_interval(node, &value))
            report |= REPORT_REFUSAL;
        if (!cbor_skip_members(&reader, &value))
            break;
    }
    return report;
}

static bool get_number(struct cbor_reader *reader, uint32_t *number)
{
    struct cbor_item item;

    if (!cbor_get(reader, &item) || item.major != CBOR_UNSIGNED || item.high != 0)
        return false;
    *number = item.number;
    return true;
}

/* How far a number is after another; negative: before it. */
static int32_t distance(uint32_t from, uint32_t to)
{
    return (int32_t)(to - from);
}

static void send_again(struct node *node, uint32_t first, uint32_t last)
{
    uint32_t oldest = node->readings.oldest;

    if (distance(node->again, node->again_end) > 0 ||
        node->now_ms - node->again_ms < ON_ITS_WAY_MS)
        return;
    /* We hold a part of what is asked for, or nothing. */
    node->again = distance(oldest, first) > 0 ? first : oldest;
    node->again_end = distance(last + 1, node->unsent) > 0 ? last + 1 : node->unsent;
}

/* [boot, last] or [boot, last, first missing, last missing] */
static bool acknowledge(struct node *node, struct cbor_reader reader, const struct cbor_item *value)
{
    bool some_are_missing = value->number == 4;
    struct cbor_item boot;
    uint32_t last, first_missing = 0, last_missing = 0;

    if (value->major != CBOR_ARRAY || (value->number != 2 && !some_are_missing))
        return false;
    if (!cbor_get(&reader, &boot) || !get_number(&reader, &last))
        return false;
    if (some_are_missing &&
        (!get_number(&reader, &first_missing) || !get_number(&reader, &last_missing)))
        return false;
    if (boot.major == CBOR_TEXT)
        return true; /* for another device */
    if (boot.major != CBOR_UNSIGNED)
        return false;
    if (boot.high != node->board || boot.number != node->boot)
        return true; /* for another boot, or for another device */
    if (!readings_release(&node->readings, last))
        return true; /* older than one that has come already */
    node->patience_ms = SHORTEST_PATIENCE_MS;
    if (some_are_missing)
        send_again(node, first_missing, last_missing);
    return true;
}

static void obey(struct node *node, uint16_t size)
{
    struct cbor_reader reader = {node->command.payload, node->command.payload + size};
    struct cbor_item map, name, value;
    uint32_t number = 0;
    uint8_t report = 0;

    if (!cbor_is_map(node->command.payload, size))
        return;
    cbor_get(&reader, &map);
    while (map.number-- > 0) {
        bool obeyed = false;

        cbor_get(&reader, &name);
        cbor_get(&reader, &value);
        if (cbor_text_is(&name, "interval_ms")) {
            obeyed = set_interval(node, &value);
            if (obeyed)
                say_interval(node);
        } else if (cbor_text_is(&name, "set") && value.major == CBOR_MAP) {
            report |= set(node, reader, &value);
            obeyed = true;
        } else if (cbor_text_is(&name, "n") && value.major == CBOR_UNSIGNED && value.high == 0) {
            number = value.number;
            report |= REPORT_NUMBER;
            obeyed = true;
        } else if (cbor_text_is(&name, "ack"))
            obeyed = acknowledge(node, reader, &value);
        if (!obeyed)
            refuse(node, &name);
        cbor_skip_members(&reader, &value);
    }
    if (report & REPORT) {
        node->report = report;
        node->answers = number;
    }
}

void node_receive(struct node *node, uint8_t byte, uint32_t now_ms)
{
    uint16_t size = frame_take(&node->command, byte);

    advance_clock(node, now_ms);
    if (size != 0)
        obey(node, size);
}

/* --- frames --- */

/* `then_ms` is less than 49 days ago, so it tells whether the clock went through 0 since. */
static void begin_message(struct node *node, struct frame_writer *writer, uint8_t members,
                          uint32_t then_ms)
{
    uint32_t wraps = then_ms > node->now_ms ? node->wraps - 1 : node->wraps;

    frame_begin(writer, node->frame, NODE_FRAME);
    cbor_put_head(writer, CBOR_MAP, members);
    cbor_put_text(writer, "b");
    cbor_put_long(writer, node->board, node->boot);
    cbor_put_text(writer, "t");
    cbor_put_long(writer, wraps, then_ms);
}

static uint16_t make_answer(struct node *node)
{
    struct frame_writer writer;

    begin_message(node, &writer, 3, node->now_ms);
    cbor_put_text(&writer, "l");
    cbor_put_text(&writer, node->answer);
    node->answer[0] = '\0';
    return frame_end(&writer);
}

static uint16_t make_report(struct node *node)
{
    bool is_answer = (node->report & REPORT_NUMBER) != 0;
    bool is_refusal = (node->report & REPORT_REFUSAL) != 0;
    struct frame_writer writer;

    begin_message(node, &writer, (uint8_t)(3 + is_answer + is_refusal), node->now_ms);
    if (is_answer) {
        cbor_put_text(&writer, "n");
        cbor_put_head(&writer, CBOR_UNSIGNED, node->answers);
    }
    if (is_refusal) {
        cbor_put_text(&writer, "e");
        cbor_put_head(&writer, CBOR_MAP, 1);
        cbor_put_text(&writer, "interval_ms");
        cbor_put_text(&writer, NODE_INTERVALS);
    }
    cbor_put_text(&writer, "s");
    cbor_put_head(&writer, CBOR_MAP, 1);
    cbor_put_text(&writer, "interval_ms");
    cbor_put_head(&writer, CBOR_UNSIGNED, node->interval_ms);
    node->report = 0;
    return frame_end(&writer);
}

static uint16_t make_reading(struct node *node, uint32_t number)
{
    const struct reading *reading = readings_find(&node->readings, number);
    struct frame_writer writer;
    uint8_t units = 0;
    uint16_t size;

    begin_message(node, &writer, 8, reading->taken_ms);
    cbor_put_text(&writer, "g");
    cbor_put_head(&writer, CBOR_UNSIGNED, node->now_ms - reading->taken_ms);
    cbor_put_text(&writer, "q");
    cbor_put_head(&writer, CBOR_UNSIGNED, number);
    cbor_put_text(&writer, "a");
    cbor_put_head(&writer, CBOR_UNSIGNED, node->readings.oldest);
    cbor_put_text(&writer, "d");
    cbor_put_head(&writer, CBOR_UNSIGNED, node->readings.dropped);
    cbor_put_text(&writer, "r");
    cbor_put_head(&writer, CBOR_MAP, SENSORS);
    for (uint8_t sensor = 0; sensor < SENSORS; sensor++) {
        cbor_put_text(&writer, node->sensors[sensor].name);
        if (reading->values[sensor] == NO_VALUE)
            cbor_put_null(&writer);
        else
            cbor_put_integer(&writer, reading->values[sensor]);
        units = (uint8_t)(units + (node->sensors[sensor].unit != NULL));
    }
    cbor_put_text(&writer, "u");
    cbor_put_head(&writer, CBOR_MAP, units);
    for (uint8_t sensor = 0; sensor < SENSORS; sensor++) {
        if (node->sensors[sensor].unit != NULL) {
            cbor_put_text(&writer, node->sensors[sensor].name);
            cbor_put_text(&writer, node->sensors[sensor].unit);
        }
    }
    node->sent_ms = node->now_ms;
    size = frame_end(&writer);
    if (size != 0)
        return size;
    begin_answer(node, "NODE_FRAME is too small");
    return make_answer(node);
}

uint16_t node_send(struct node *node, uint32_t now_ms)
{
    uint32_t oldest = node->readings.oldest;

    advance_clock(node, now_ms);
    if (node->answer[0] != '\0')
        return make_answer(node);
    if (node->report != 0)
        return make_report(node);
    /* New readings come before old ones. Some may have given way before they were sent. */
    if (distance(oldest, node->unsent) < 0)
        node->unsent = oldest;
    if (node->unsent != readings_next(&node->readings))
        return make_reading(node, node->unsent++);
    if (distance(oldest, node->again) < 0)
        node->again = oldest;
    if (distance(node->again, node->again_end) > 0) {
        node->again_ms = now_ms;
        return make_reading(node, node->again++);
    }
    if (node->readings.count == 0 || now_ms - node->sent_ms < node->patience_ms)
        return 0;
    node->patience_ms *= 2;
    if (node->patience_ms > LONGEST_PATIENCE_MS)
        node->patience_ms = LONGEST_PATIENCE_MS;
    return make_reading(node, oldest);
}
