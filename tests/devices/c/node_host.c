/* Drives the portable core of the reference firmware: a request on standard input, its answer on
 * standard output, until the input ends. Numbers are little-endian; see tests/devices/core.py. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cbor.h"
#include "node.h"
#include "settings.h"

static const struct sensor sensors[SENSORS] = {{"level", "mm"}, {"flow", "l/min"}, {"pump", NULL}};
static struct node node;
static uint32_t now_ms;

static void take(void *memory, size_t size)
{
    if (fread(memory, 1, size, stdin) != size)
        exit(EXIT_FAILURE);
}

static void answer(const void *memory, size_t size)
{
    uint16_t length = (uint16_t)size;

    fwrite(&length, sizeof length, 1, stdout);
    fwrite(memory, 1, size, stdout);
    fflush(stdout);
}

static uint32_t take_number(void)
{
    uint32_t number;

    take(&number, sizeof number);
    return number;
}

int main(void)
{
    int request;

    while ((request = getchar()) != EOF) {
        switch (request) {
        case 's': { /* start: board, boot, interval */
            uint32_t board = take_number(), boot = take_number();

            node_start(&node, sensors, board, boot, take_number(), now_ms);
            break;
        }
        case 't': /* time */
            now_ms = take_number();
            break;
        case 'm': { /* measured: values */
            value_t values[SENSORS];

            take(values, sizeof values);
            node_record(&node, values, now_ms);
            break;
        }
        case 'r': { /* received: size, bytes */
            uint32_t left = take_number();

            while (left-- > 0) {
                uint8_t byte;

                take(&byte, sizeof byte);
                node_receive(&node, byte, now_ms);
            }
            break;
        }
        case 'p': { /* payload: size, bytes, in memory of just that size; is it a map? */
            uint32_t size = take_number();
            uint8_t *bytes = malloc(size ? size : 1);
            bool good;

            take(bytes, size);
            good = cbor_is_map(bytes, (uint16_t)size);
            free(bytes);
            answer(&good, 1);
            break;
        }
        case 'f': { /* the next frame */
            uint16_t size = node_send(&node, now_ms);

            answer(node.frame, size);
            break;
        }
        case 'd': { /* is it due? and the interval */
            uint32_t said[2] = {node_is_due(&node, now_ms), node.interval_ms};

            answer(said, sizeof said);
            break;
        }
        case 'c': { /* two copies of settings: which is chosen, and where the next is written */
            struct settings copies[2], chosen;

            take(copies, sizeof copies);
            memset(&chosen, 0, sizeof chosen);
            if (!settings_choose(&chosen, copies))
                chosen.interval_ms = 1000;
            copies[settings_seal(&chosen)] = chosen;
            answer(copies, sizeof copies);
            break;
        }
        default:
            return EXIT_FAILURE;
        }
    }
    return EXIT_SUCCESS;
}
